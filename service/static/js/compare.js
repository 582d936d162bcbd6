/**
 * Before and after in one frame, divided where the slider stands.
 */

import { h } from "./dom.js";

/**
 * A File and the URL of what became of it, of the same shape. The slider is a native range, so keyboards and readers
 * have it too; `share` is how much of the picture before it shows at first, in percent.
 */
export function compare(before, after, alt, share = 50) {
  const url = URL.createObjectURL(before);
  const frame = h("div", { className: "compare" });
  const slider = h("input", {
    type: "range",
    min: 0,
    max: 100,
    step: 0.5,
    value: share,
    className: "divider",
    "aria-label": "Before and after: how much of the picture before is shown, in percent",
  });
  const place = () => frame.style.setProperty("--at", `${slider.value}%`);
  slider.addEventListener("input", place);
  place();
  frame.append(
    h("img", { src: after, alt, className: "after" }),
    h("span", { className: "tag right", "aria-hidden": "true" }, "After"),
    h(
      "div",
      { className: "before" },
      h("img", { src: url, alt: "The picture before", onload: () => URL.revokeObjectURL(url) }),
      h("span", { className: "tag left", "aria-hidden": "true" }, "Before"),
    ),
    h("span", { className: "handle", "aria-hidden": "true" }),
    slider,
  );
  return frame;
}
