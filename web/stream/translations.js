/** What the panel says, in the frontend's language: English stands in the code, the rest in `locales/` under `chords`. */

let words = {};

/** Take the words of a language from the server's answer to /i18n; without any it stays English. */
export function learn(translations, language) {
  words = translations?.[language]?.chords ?? {};
}

/** A text in the language learned, with its {places} filled in. */
export function say(text, values = {}) {
  return (words[text] ?? text).replace(/\{(\w+)\}/g, (place, name) => values[name] ?? place);
}
