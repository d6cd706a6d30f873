/** The page in English, Japanese or Chinese: as the browser prefers, or as the reader chooses. The texts: texts.js. */

(() => {
  "use strict";
  const CHORDS = (globalThis.CHORDS ??= {});

  const LANGUAGES = ["en", "ja", "zh"]; // after English in the order of the table
  const KSAMPLER = { en: "KSampler", ja: "Kサンプラー", zh: "K采样器" };
  let language = "en";

  /** A text of the page in its language, with the values in place of {name}. */
  function translated(text, values = {}) {
    const own = language === "en" ? text : (CHORDS.TEXTS[text]?.[LANGUAGES.indexOf(language) - 1] ?? text);
    return own.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
  }

  const kSampler = () => KSAMPLER[language];

  /** The first of these languages that the page has. */
  function preferred(wanted) {
    const known = wanted.map((each) => each.toLowerCase().split("-")[0]).filter((each) => LANGUAGES.includes(each));
    return known[0] ?? "en";
  }

  /** Show all texts of the document in a language. Its own text, in English, is kept for the next choice. */
  function setLanguage(chosen) {
    language = chosen;
    document.documentElement.lang = { en: "en", ja: "ja", zh: "zh-CN" }[chosen];
    for (const element of document.querySelectorAll("[data-text]")) {
      element.dataset.text ||= element.innerHTML.trim().replace(/\s+/g, " ");
      element.innerHTML = translated(element.dataset.text);
    }
    for (const element of document.querySelectorAll("[data-label]")) {
      element.setAttribute("aria-label", translated(element.dataset.label));
    }
  }

  Object.assign(CHORDS, { LANGUAGES, translated, kSampler, preferred, setLanguage });
})();
