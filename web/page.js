/**
 * Tells the server the language of this page and whether its ground is light: nodes draw their pictures for it
 * (docs/headless.md has the protocol).
 */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const probe = document.createElement("i");
let told = null; // what the server knows of this page
let sent = Promise.resolve(); // one request after another: the server keeps the last

app.registerExtension({
  name: "CHORDS.Page",

  setup() {
    probe.hidden = true;
    // Mixed, the colour is told in sRGB, in whatever way the palette writes it.
    probe.style.color = "color-mix(in srgb, var(--bg-color) 100%, black)";
    document.body.append(probe);
    api.addEventListener("status", tell);
    api.addEventListener("reconnected", () => {
      told = null; // the server may be a new one
      tell();
    });
    // The frontend sets the colours of a palette here.
    new MutationObserver(tell).observe(document.documentElement, { attributeFilter: ["class", "style"] });
    tell();
  },
});

function tell() {
  const client = api.clientId ?? api.initialClientId;
  const language = app.ui.settings.getSettingValue("Comfy.Locale");
  const body = JSON.stringify({ client_id: client, language, light: isLight() });
  if (!client || !language || body === told) return;
  told = body;
  const headers = { "Content-Type": "application/json" };
  const send = () => api.fetchApi("/chords/page", { method: "POST", headers, body });
  sent = sent.then(send).catch(() => (told = null));
}

/** Whether the ground of the page is light. Palettes may not say so themselves, so its colour decides. */
function isLight() {
  // "color(srgb 0.93 0.93 0.93)"; a part may be negative or above 1, where the palette's colour is beyond sRGB.
  const [red, green, blue] = getComputedStyle(probe).color.split(" ").slice(1).map(Number.parseFloat);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5;
}
