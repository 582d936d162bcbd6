/**
 * A study: asks for the next pair, shows both pictures at the same moment, and sends which was chosen.
 */

const PARTICIPANT = "participant"; // until the tab is closed, so that a reload goes on

const byId = (id) => document.getElementById(id);
const parts = { start: byId("start"), pair: byId("pair"), done: byId("done") };
const places = { left: byId("left"), right: byId("right") };

let participant = sessionStorage.getItem(PARTICIPANT);
let number = null; // of the pair that is shown
let open = false; // whether it may be answered
let since = 0;

function show(name) {
  for (const [each, part] of Object.entries(parts)) part.hidden = each !== name;
  parts[name].querySelector(name === "start" ? "input" : "h1").focus();
}

function tell(trouble) {
  byId("trouble").textContent = trouble;
}

async function ask(path, options) {
  const answer = await fetch(path, options);
  const found = await answer.json();
  if (!answer.ok) throw new Error(typeof found.detail === "string" ? found.detail : `The study answered ${answer.status}`);
  return found;
}

const query = () => new URLSearchParams({ participant });

/** Loads a picture into its place; it isn't seen before `decode` has it whole. */
function load(image, path) {
  image.src = `${path}?${query()}`;
  return image.decode();
}

function allow(yes) {
  open = yes;
  for (const place of Object.values(places)) place.setAttribute("aria-disabled", String(!yes));
}

async function present(next) {
  number = next.number;
  const bar = byId("bar");
  bar.hidden = false;
  bar.max = next.of;
  bar.value = next.answered;
  byId("count").textContent = number === null ? `${next.of} of ${next.of}` : `${next.answered + 1} of ${next.of}`;
  if (number === null) return show("done");
  byId("question").textContent = next.question;
  byId("prompt").textContent = next.prompt;
  byId("given").hidden = !next.given;
  parts.pair.classList.add("over");
  if (parts.pair.hidden) show("pair");
  const loading = Object.entries(places).map(([place, button]) =>
    load(button.querySelector("img"), `pictures/${number}/${place}`),
  );
  if (next.given) loading.push(load(byId("given").querySelector("img"), `given/${number}`));
  await Promise.all(loading);
  parts.pair.classList.remove("over");
  since = performance.now();
  if (next.seconds > 0) {
    await new Promise((resolve) => setTimeout(resolve, next.seconds * 1000));
    parts.pair.classList.add("over");
  }
  allow(true);
}

/** Does what may fail, and says so where it does; nothing is lost, since the study knows what was answered. */
async function trying(work) {
  try {
    tell("");
    await work();
  } catch (error) {
    tell(error.name === "EncodingError" ? "A picture can't be shown: tell who runs this study." : error.message);
  }
}

function choose(place) {
  if (!open) return;
  allow(false);
  const choice = { participant, number, place, seconds: (performance.now() - since) / 1000 };
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(choice) };
  const answer = ask("answers", options);
  answer.catch(() => allow(true)); // it wasn't written: the pair may be answered again
  trying(async () => present(await answer));
}

function begin() {
  allow(false);
  trying(async () => present(await ask(`next?${query()}`)));
}

for (const [place, button] of Object.entries(places)) {
  button.querySelector("img").alt = `${place === "left" ? "Left" : "Right"} picture`;
  button.addEventListener("click", () => choose(place));
}

document.addEventListener("keydown", (event) => {
  const place = { ArrowLeft: "left", ArrowRight: "right" }[event.key];
  if (!place || parts.pair.hidden || event.repeat || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  choose(place);
});

parts.start.addEventListener("submit", (event) => {
  event.preventDefault();
  participant = byId("participant").value.trim();
  sessionStorage.setItem(PARTICIPANT, participant);
  begin();
});

byId("another").addEventListener("click", () => {
  sessionStorage.removeItem(PARTICIPANT);
  parts.start.reset();
  byId("bar").hidden = true;
  byId("count").textContent = "";
  show("start");
});

if (participant) begin();
else byId("participant").focus();
