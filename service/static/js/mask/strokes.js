/**
 * How a mask's operations are painted: strokes, rectangles, pictures, and the stripes that show the mask.
 */

import { h } from "../lib/dom.js";

const STRIPES = ["#6d28d9", "#f5f0ff"]; // one of them shows on any picture

/** Paints one operation with `fill`; see `Mask` for what they are. */
export function paintOperation(paint, operation, fill) {
  const { type, erase, size, points, bitmap } = operation;
  const { width, height } = paint.canvas;
  paint.globalCompositeOperation =
    { invert: "xor", clear: "destination-out" }[type] ?? (erase ? "destination-out" : "source-over");
  paint.fillStyle = paint.strokeStyle = fill;
  if (type === "stroke") drawStroke(paint, size, points);
  else if (type === "rectangle") paint.fillRect(...corners(points));
  else if (type === "file") drawFile(paint, bitmap, fill);
  else paint.fillRect(0, 0, width, height);
  paint.globalCompositeOperation = "source-over";
}

/** Diagonal stripes, opaque: the mask is the canvas's alpha. */
export function stripes(paint, width) {
  const side = Math.round(width * Math.SQRT2) * 2;
  const tile = h("canvas", { width: side, height: side });
  const brush = tile.getContext("2d");
  const pixels = brush.createImageData(side, side);
  const colours = STRIPES.map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  for (let i = 0; i < side * side; i++) {
    const along = ((i % side) + Math.floor(i / side)) % side;
    pixels.data.set([...colours[along < side / 2 ? 0 : 1], 255], 4 * i);
  }
  brush.putImageData(pixels, 0, 0);
  return paint.createPattern(tile, "repeat");
}

// A line of no length draws nothing, so that a dab is a disc.
function drawStroke(paint, size, points) {
  paint.beginPath();
  if (points.length === 1) {
    paint.arc(...points[0], size / 2, 0, 2 * Math.PI);
    paint.fill();
    return;
  }
  paint.lineWidth = size;
  paint.lineCap = paint.lineJoin = "round";
  for (const point of points) paint.lineTo(...point);
  paint.stroke();
}

/** Adds the light half of a picture to the mask, stretched over it. */
function drawFile(paint, bitmap, fill) {
  const { width, height } = paint.canvas;
  const layer = new OffscreenCanvas(width, height);
  const brush = layer.getContext("2d");
  brush.drawImage(bitmap, 0, 0, width, height);
  const pixels = brush.getImageData(0, 0, width, height);
  const { data } = pixels;
  for (let i = 0; i < data.length; i += 4)
    data[i + 3] = 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2] > 127 && data[i + 3] > 127 ? 255 : 0;
  brush.putImageData(pixels, 0, 0);
  brush.globalCompositeOperation = "source-in";
  brush.fillStyle = fill;
  brush.fillRect(0, 0, width, height);
  paint.drawImage(layer, 0, 0);
}

/** x, y, width, height of the rectangle between two corners, in whole pixels. */
function corners([[x0, y0], [x1, y1] = [x0, y0]]) {
  const [left, right] = [Math.floor(Math.min(x0, x1)), Math.ceil(Math.max(x0, x1))];
  const [top, bottom] = [Math.floor(Math.min(y0, y1)), Math.ceil(Math.max(y0, y1))];
  return [left, top, right - left, bottom - top];
}
