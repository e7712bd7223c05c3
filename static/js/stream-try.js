// A stream that is dropped and taken up again, with the browser's own EventSource and nothing else.
const room = document.querySelector("[data-stream-try]");
const part = (name) => document.querySelector(`[data-try-${name}]`);
const form = part("form");
let state = null;

function fresh() {
  return { stream: "", cursor: "", source: null, after: 0, text: "", over: false, wrong: 0, connections: 0, acked: 0 };
}

function show(standing) {
  if (standing) part("standing").textContent = standing;
  const figures = { frames: state.after, acked: state.acked, wrong: state.wrong, connections: state.connections };
  for (const [name, value] of Object.entries(figures)) document.querySelector(`[data-live-key="try_${name}"]`).textContent = value;
  const open = Boolean(state.source);
  part("drop").disabled = !open;
  const dropped = !open && !state.over && Boolean(state.stream);
  part("continue").hidden = !dropped;
  part("drop").hidden = dropped;
  part("ack").disabled = state.after <= state.acked;
}

function say(words) {
  const line = document.createElement("li");
  line.textContent = words;
  part("log").append(line);
}

function fail(words) {
  part("error").textContent = words;
  part("error").hidden = !words;
}

async function sha256(text) {
  if (!globalThis.crypto?.subtle) return ""; // only where the page came safely
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function drop(standing) {
  state.source?.close();
  state.source = null;
  show(standing);
}

async function resumed(event) {
  const { after, model, prefix_sha256: promised } = JSON.parse(event.data).ballast.resumes;
  const text = state.text; // now: more may come while it is hashed
  const mine = await sha256(text);
  const same = mine ? (mine === promised ? "and the words so far are the same" : "but the words so far DIFFER") : "";
  say(`resumes after frame ${after}, written by ${model}${same ? `, ${same}` : ""}`);
}

function take(event) {
  const number = Number(event.lastEventId);
  if (number <= state.after) { state.wrong += 1; show(); return; }
  state.wrong += number - state.after - 1;
  state.after = number;
  if (event.data === "[DONE]") return finish("Complete: every frame is here.", "the terminal event, [DONE]");
  const { error, choices, ballast } = JSON.parse(event.data);
  if (error) return finish(`Ended early: ${error.message}.`, `the terminal event, ${error.code}`);
  if (ballast?.resumed) say(`another lane took the answer up: ${ballast.resumed.lane}, by ${ballast.resumed.how}`);
  state.text += choices?.[0]?.delta?.content ?? "";
  part("answer").textContent = state.text;
  show();
}

function finish(standing, words) {
  state.over = true;
  say(`frame ${state.after}: ${words}`);
  drop(standing);
}

function connect() {
  const address = new URL(`${room.ownerDocument.location.pathname}${state.stream}/events/`, location.href);
  address.searchParams.set("cursor", state.cursor);
  address.searchParams.set("starting_after", state.after);
  const source = new EventSource(address);
  state.source = source;
  state.connections += 1;
  source.addEventListener("message", (event) => state.source === source && take(event));
  source.addEventListener("resumed", (event) => state.source === source && resumed(event));
  source.addEventListener("error", () => {
    if (state.source !== source) return;
    if (source.readyState === EventSource.CLOSED) drop("The gateway does not give this stream any more.");
    else show("The connection broke; the browser is coming back by itself.");
  });
  show(state.after ? `Continuing after frame ${state.after}.` : "Reading.");
}

async function post(address, fields) {
  const response = await fetch(address, { method: "POST", body: fields });
  const answer = await response.json().catch(() => ({ error: `The console answered with status ${response.status}.` }));
  if (answer.error) throw new Error(answer.error);
  return answer;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (state) drop();
  state = fresh();
  part("answer").textContent = "";
  part("log").replaceChildren();
  fail("");
  show("Asking.");
  try {
    Object.assign(state, await post(form.action, new FormData(form)));
    say(`stream ${state.stream}; the connection that asked was dropped at once, and the answer goes on`);
    connect();
  } catch (error) {
    fail(error.message);
    show("Nothing came.");
  }
});

part("drop").addEventListener("click", () => {
  say(`dropped by hand after frame ${state.after}`);
  drop(`Connection dropped after frame ${state.after}. The answer is being written on.`);
});
part("continue").addEventListener("click", connect);
part("ack").addEventListener("click", async () => {
  const fields = new FormData();
  fields.set("csrfmiddlewaretoken", form.elements.csrfmiddlewaretoken.value);
  fields.set("after", state.after);
  fields.set("cursor", state.cursor);
  try {
    const answer = await post(`${location.pathname}${state.stream}/ack/`, fields);
    state.acked = answer.acked;
    say(`acknowledged up to frame ${answer.acked} of ${answer.last}`);
    show();
  } catch (error) {
    fail(error.message);
  }
});
