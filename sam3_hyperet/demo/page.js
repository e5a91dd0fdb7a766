// Boxes are drawn on the picture by mouse, pen or finger, and files are dropped onto it.
const pixels = (event) => {
  const svg = element.querySelector("svg");
  const { left, top, width, height } = svg.getBoundingClientRect();
  const { width: columns, height: rows } = svg.viewBox.baseVal;
  const within = (value, most) => Math.min(Math.max(value, 0), most);
  return [
    within(((event.clientX - left) / width) * columns, columns),
    within(((event.clientY - top) / height) * rows, rows),
  ];
};
const box = ([x, y], [u, v]) => [Math.min(x, u), Math.min(y, v), Math.abs(u - x), Math.abs(v - y)];
let start = null;
element.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button || !event.target.closest(".hy-drawing")) return;
  start = pixels(event);
  element.setPointerCapture(event.pointerId);
  event.preventDefault();
});
element.addEventListener("pointermove", (event) => {
  if (!start) return;
  const drawn = element.querySelector(".hy-drawn");
  box(start, pixels(event)).forEach((value, k) => drawn.setAttribute(["x", "y", "width", "height"][k], value));
});
element.addEventListener("pointerup", (event) => {
  if (!start) return;
  const drawn = box(start, pixels(event)).map((value) => Math.round(value * 10) / 10);
  start = null;
  if (drawn[2] >= 2 && drawn[3] >= 2) trigger("draw", { box: drawn });
});
element.addEventListener("pointercancel", () => (start = null));
element.addEventListener("dragover", (event) => {
  event.preventDefault();
  element.classList.add("hy-dropping");
});
element.addEventListener("dragleave", () => element.classList.remove("hy-dropping"));
element.addEventListener("drop", (event) => {
  event.preventDefault();
  element.classList.remove("hy-dropping");
  const input = document.querySelector("#hy-upload").parentElement.querySelector("input[type=file]");
  if (!input || !event.dataTransfer.files.length) return;
  input.files = event.dataTransfer.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});
