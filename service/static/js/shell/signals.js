/**
 * What is seen of a job where the page isn't looked at: percent in title and favicon, and a notification at its end.
 */

const TITLE = document.title;
const SIDE = 64;
const icon = document.querySelector("link[rel=icon]");
const PLAIN = icon.getAttribute("href");
let shown = -1;

/** Shows how much of a job is done, 0 to 1; null when nothing runs. */
export function showShare(share) {
  const percent = share === null ? -1 : Math.floor(100 * share);
  if (percent === shown) return;
  shown = percent;
  document.title = percent < 0 ? TITLE : `${percent} % · ${TITLE}`;
  icon.href = percent < 0 ? PLAIN : drawn(percent / 100);
}

/** A ring that fills as the job does. */
function drawn(share) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const paint = canvas.getContext("2d");
  const arc = (to, colour) => {
    paint.beginPath();
    paint.arc(SIDE / 2, SIDE / 2, SIDE / 2 - 9, -Math.PI / 2, -Math.PI / 2 + to * 2 * Math.PI);
    paint.lineWidth = 14;
    paint.strokeStyle = colour;
    paint.stroke();
  };
  arc(1, "#8a938c66");
  arc(share, "#2f9c7c");
  return canvas.toDataURL();
}

/** Whether there is a permission that could still be asked for. */
export const canNotify = () => "Notification" in window && Notification.permission === "default";

export const askToNotify = () => Notification.requestPermission();

const ENDINGS = { succeeded: "Your picture is done", failed: "A job failed", canceled: "A job was canceled" };

/** Tells of a job's end, if the page is hidden and was allowed to. */
export function notifyEnd(job) {
  if (!document.hidden || !("Notification" in window) || Notification.permission !== "granted") return;
  const [image] = job.images;
  const options = { body: job.request.prompt ?? "", tag: job.id, ...(image && { icon: image.url }) };
  try {
    const notification = new Notification(ENDINGS[job.status], options);
    notification.addEventListener("click", () => (window.focus(), notification.close()));
  } catch {
    // Chrome on Android has the constructor and throws: a page can't notify there.
  }
}
