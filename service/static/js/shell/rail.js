/**
 * The form on a phone: a sheet at the foot that shows the prompt and the button, and everything once it is opened.
 */

import { byId, composes } from "../lib/dom.js";

const narrow = matchMedia("(max-width: 760px)");
const others = () => [document.querySelector(".top"), byId("stage"), byId("history")];

/** Opens or closes the sheet; does nothing where the form stands beside the stage. */
export function showRail(open) {
  const on = open && narrow.matches;
  const toggle = byId("rail-toggle");
  byId("rail").classList.toggle("open", on);
  toggle.setAttribute("aria-expanded", String(on));
  toggle.querySelector("span").textContent = on ? "Fewer settings" : "All settings";
  for (const node of others()) node.inert = on;
}

export function listenToRail() {
  byId("rail-toggle").addEventListener("click", () => showRail(!byId("rail").classList.contains("open")));
  byId("form").addEventListener("unfold", () => showRail(true));
  byId("rail").addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || composes(event) || !byId("rail").classList.contains("open")) return;
    showRail(false);
    byId("rail-toggle").focus();
  });
  // Told a frame late: on a page that became narrow somebody may have opened it by then.
  narrow.addEventListener("change", () => {
    if (!narrow.matches) showRail(false);
  });
  const head = document.querySelector(".top");
  new ResizeObserver(() => document.body.style.setProperty("--head", `${head.offsetHeight}px`)).observe(head);
  // The page ends above the sheet, whatever it holds.
  new ResizeObserver(([{ target }]) => {
    const height = narrow.matches && !target.classList.contains("open") ? target.offsetHeight : 0;
    if (height || !narrow.matches) document.body.style.setProperty("--sheet", `${height}px`);
  }).observe(byId("rail"));
}
