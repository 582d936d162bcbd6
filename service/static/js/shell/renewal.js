/**
 * Pictures of a page that lies open for hours: their addresses run out, and are asked for anew where they are wanted.
 */

import { downloadUrl, hasRunOut, renewed } from "../lib/api.js";
import { tell } from "../lib/dom.js";

export function renewPictures() {
  document.addEventListener("error", ({ target }) => renewPicture(target), true); // it doesn't bubble
  document.addEventListener("click", renewDownload, true);
}

/** One that failed for another reason has the same address still, and stays as it is; so does one whose job is gone. */
async function renewPicture(picture) {
  if (!picture.matches?.("img[src*='expires=']")) return;
  const failed = picture.getAttribute("src");
  const url = await renewed(failed).catch(() => failed);
  if (url !== failed) picture.src = url;
}

let renewedLink; // whose new address seems to have run out, too, where this machine's clock is ahead

async function renewDownload(event) {
  const link = event.target.closest?.("a[download][href*='expires=']");
  if (!link || link === renewedLink || !hasRunOut(link.href)) return;
  event.preventDefault();
  try {
    link.href = downloadUrl({ url: await renewed(link.href) });
    renewedLink = link;
    link.click(); // is dispatched at once
    renewedLink = undefined;
  } catch (problem) {
    tell(problem.message);
  }
}
