/**
 * Light, dark, or as the system is; kept by this browser.
 */

import { announce, byId, icon } from "../lib/dom.js";
import { store, stored } from "../lib/keep.js";

const THEMES = {
  system: ["light dark", "system", "Theme: as the system"],
  light: ["light", "sun", "Theme: light"],
  dark: ["dark", "moon", "Theme: dark"],
};

/** Makes #theme go from one to the next. */
export function listenToTheme() {
  let theme = stored("theme", "system");
  const show = () => {
    const [scheme, symbol, label] = THEMES[theme] ?? THEMES.system;
    document.documentElement.style.colorScheme = scheme;
    byId("theme").replaceChildren(icon(symbol));
    byId("theme").setAttribute("aria-label", label);
    byId("theme").title = label;
    return label;
  };
  byId("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    store("theme", theme);
    announce(show());
  });
  show();
}
