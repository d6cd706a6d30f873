/**
 * The texts in the frontend's language: English in the code, others in `locales/`, under `chords` those of the scripts here
 * and under `chords_run` those that the server sends.
 */

let translations = {};

/** Use the translations of a language from the server's answer to /i18n. Without them, texts stay English. */
export function setTranslations(languages, language) {
  const { chords, chords_run: ofTheServer } = languages?.[language] ?? {};
  translations = { ...ofTheServer, ...chords };
}

/** A text in the frontend's language, with the values of its {placeholders}. */
export function t(text, values = {}) {
  return (translations[text] ?? text).replace(/\{(\w+)\}/g, (placeholder, name) => values[name] ?? placeholder);
}
