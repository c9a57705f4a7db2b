/* The page of a server, over the routes that everybody has. What the server says becomes text, never markup. */

const KEY = "driftlm token"; // in the session's storage, which ends with the tab
const LISTED = 100; // documents at once
const ANSWERS = 5; // that stay on the page
const SOURCES = 8; // documents of an answer that are named at most
const LEAST = 0.001; // of their shares
const WRITTEN = 64; // tokens of an answer at most
const DOTTED = 30; // points up to which each is drawn as a dot
const OFTEN = 600; // milliseconds between two looks while something is read
const SELDOM = 2500;
const SHOWN = 10000; // milliseconds that what went well is said; what did not stays
const DASH = "–";

const at = (id) => document.getElementById(id);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const held = { model: null, documents: [], more: false, wanted: LISTED, snapshots: [], changes: null, now: null };
const drawn = { view: null, look: "" };
let next = 0; // timer of the next look
let fading = 0; // timer of what is said
let entered = false;

/* ---- what the server is asked ------------------------------------------------------------------------------------ */

class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function call(method, path, body) {
  const headers = {};
  const token = sessionStorage.getItem(KEY);
  if (token) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let reply;
  try {
    reply = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refusal("The server does not answer; see whether it still runs.", 0);
  }
  const said = await reply.json().catch(() => null);
  if (reply.ok && said) return said;
  if (reply.status === 401) shut(token ? "The token is not valid; enter another one." : "");
  throw new Refusal(said?.error?.message ?? `The server answered with status ${reply.status}.`, reply.status);
}

/* ---- words and elements ------------------------------------------------------------------------------------------ */

const number = new Intl.NumberFormat("en");
const count = (many, one) => `${number.format(many)} ${one}${many === 1 ? "" : "s"}`;
const bits = (value) => (value == null || !Number.isFinite(value) ? DASH : value.toFixed(3));
const inBits = (nats) => (nats == null ? null : nats / Math.LN2);
const rates = (fixed, adapted) =>
  `bits per byte: ${fixed == null ? "" : `${bits(fixed)} static, `}${bits(adapted)} adapted`;
const short = (id) => (id.length > 60 ? `${id.slice(0, 38)} … ${id.slice(-18)}` : id);
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function moment(iso) {
  const when = new Date(iso);
  const style = { dateStyle: "medium", timeStyle: "short" };
  return Number.isNaN(when.getTime()) ? iso : when.toLocaleString(undefined, style);
}

function made(tag, text = "", kind = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function button(text, key, about, work, kind = "") {
  const element = made("button", text, kind);
  element.type = "button";
  element.dataset.key = key;
  element.setAttribute("aria-label", about);
  element.addEventListener("click", () => act(element, work));
  return element;
}

function tell(text) {
  at("said").textContent = text;
  clearTimeout(fading);
  if (!text.endsWith("…")) fading = setTimeout(() => (at("said").textContent = ""), SHOWN);
  at("failed").textContent = "";
}

function refuse(error) {
  if (error.status === 401) return; // the entrance says it
  at("said").textContent = "";
  at("failed").textContent = capital(error instanceof Refusal ? error.message : `The page failed: ${error.message}`);
}

/* One thing at a time by a button; it keeps the focus while it works. */
async function act(element, work) {
  if (element.getAttribute("aria-disabled") === "true") return;
  element.setAttribute("aria-disabled", "true");
  try {
    await work();
  } catch (error) {
    refuse(error);
  } finally {
    element.removeAttribute("aria-disabled");
  }
}

function onSubmit(form, work) {
  at(form).addEventListener("submit", (event) => {
    event.preventDefault();
    act(at(form).querySelector("button"), work);
  });
}

/* Fill a list anew; a button of it that has the focus keeps it, or the heading gets it. */
function fill(list, rows, heading) {
  const key = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  list.replaceChildren(...rows);
  if (key == null) return;
  const same = [...list.querySelectorAll("button")].find((one) => one.dataset.key === key);
  (same ?? heading).focus();
}

/* Ask before something that cannot be taken back; null where it is not wanted. */
function sure(title, text, verb, purge) {
  const dialog = at("sure");
  if (dialog.open) return Promise.resolve(null);
  at("sure-title").textContent = title;
  at("sure-text").textContent = text;
  at("purge-label").hidden = !purge;
  at("purge").checked = false;
  at("yes").textContent = verb;
  at("yes").className = verb === "Restore" ? "first" : "harm";
  dialog.returnValue = "";
  dialog.showModal();
  at("no").focus();
  return new Promise((resolve) => {
    const closed = () => resolve(dialog.returnValue === "yes" ? { purge: at("purge").checked } : null);
    dialog.addEventListener("close", closed, { once: true });
  });
}

function price(cost) {
  if (!cost || !cost.documents) return "Nothing has to be read again.";
  const seconds = cost.seconds < 1 ? "under a second" : `about ${count(Math.round(cost.seconds), "second")}`;
  return `${count(cost.documents, "document")} of ${count(cost.tokens, "token")} will be read again, ${seconds}.`;
}

/* ---- what is read ------------------------------------------------------------------------------------------------ */

/* Running bits per byte over the documents that are listed, and window by window inside the latest. */
function line() {
  const sums = { tokens: 0, bytes: 0, adapted: 0, static: 0 }; // the last two in bits
  const points = [];
  const put = (id, tokens, bytes, adapted, fixed) => {
    const all = { tokens: sums.tokens + tokens, bytes: sums.bytes + bytes, adapted: sums.adapted + adapted };
    all.static = fixed == null ? null : sums.static + fixed;
    const rate = all.static == null ? null : all.static / all.bytes;
    points.push({ id, tokens: all.tokens, adapted: all.adapted / all.bytes, static: rate });
    return all;
  };
  const now = held.now && held.now.state !== "failed" ? held.now : null;
  for (const row of [...held.documents].reverse()) {
    if ((now && row.seq === now.seq) || !row.bytes) continue;
    Object.assign(sums, put(row.id, row.tokens, row.bytes, inBits(row.nats), inBits(row.static_nats)));
  }
  for (const point of now?.points ?? []) {
    if (!point.bytes || point.bits_per_byte == null) continue;
    const fixed = point.static_bits_per_byte == null ? null : point.static_bits_per_byte * point.bytes;
    put(now.id, point.tokens, point.bytes, point.bits_per_byte * point.bytes, fixed);
  }
  return points;
}

function showReading() {
  const now = held.now;
  const states = { reading: "Reading", read: "Read last:", failed: "Could not be read:" };
  at("now").textContent = now
    ? `${states[now.state]} ${short(now.id)}, ${number.format(now.tokens)} of ${count(now.of, "token")}, ` +
      rates(now.static_bits_per_byte, now.bits_per_byte)
    : held.documents.length
      ? "Nothing is being read."
      : "Nothing has been read yet: give a text below.";
  at("share").hidden = now?.state !== "reading";
  at("share").value = now ? now.tokens / now.of : 0;
  const points = line();
  const last = points.at(-1);
  at("static").textContent = bits(last?.static);
  at("adapted").textContent = bits(last?.adapted);
  at("tokens").textContent = last ? number.format(last.tokens) : DASH;
  const percent = last?.static ? (100 * (last.static - last.adapted)) / last.static : null;
  const small = percent != null && Math.abs(percent) < 0.005;
  at("fewer").textContent =
    percent == null ? DASH : small ? "0.0 %" : `${Math.abs(percent).toFixed(2)} % ${percent > 0 ? "fewer" : "MORE"}`;
  at("fewer").className = percent == null || small ? "" : percent > 0 ? "better" : "worse";
  const cells = (point) => {
    const row = made("tr");
    row.append(made("td", point.id), made("td", number.format(point.tokens), "n"));
    row.append(made("td", bits(point.static), "n"), made("td", bits(point.adapted), "n"));
    return row;
  };
  at("points").replaceChildren(...points.slice(-50).reverse().map(cells));
  const over = `Everything so far, over the ${held.more ? "latest " : ""}documents below; lower is better.`;
  at("caption").textContent = window.notDrawn ?? (points.length ? over : "");
  at("numbers").hidden = !points.length;
  if (window.notDrawn) at("numbers").open = true;
  draw(points);
}

function specification(rows, dots) {
  return {
    width: "container",
    height: "container",
    padding: 10,
    autosize: { type: "fit", contains: "padding" },
    data: { name: "points", values: rows },
    mark: { type: "line", interpolate: "linear", strokeWidth: 2.5, point: dots ? { size: 40, filled: true } : false },
    encoding: {
      x: {
        field: "tokens", type: "quantitative", title: "tokens read", scale: { nice: false, zero: true },
        axis: { tickCount: 5, format: "~s", labelExpr: "datum.value ? datum.label : '0'" }, // d3 would write 0k
      },
      y: {
        field: "bits", type: "quantitative", title: "bits per byte", scale: { zero: false, nice: true },
        axis: { tickCount: 5 },
      },
      color: {
        field: "reader", type: "nominal",
        scale: { domain: ["static", "adapted"], range: [window.looks.static, window.looks.adapted] },
        legend: { symbolType: "stroke" },
      },
      tooltip: [
        { field: "tokens", type: "quantitative", format: "," },
        { field: "reader", type: "nominal" },
        { field: "bits", type: "quantitative", format: ".3f" },
        { field: "id", type: "nominal", title: "document" },
      ],
    },
  };
}

/* The chart is made anew only when its look changes; else it gets other points. */
async function draw(points) {
  const chart = at("chart");
  chart.hidden = !window.vegaEmbed || !points.length;
  if (chart.hidden) return;
  const readers = ["static", "adapted"];
  const both = points.flatMap((point) => readers.map((reader) => ({ ...point, reader, bits: point[reader] })));
  const rows = both.filter((row) => row.bits != null);
  const [tokens, fixed, adapted] = ["tokens", "static", "adapted"].map((id) => at(id).textContent);
  chart.setAttribute("aria-label", `bits per byte after ${tokens} tokens: static ${fixed}, adapted ${adapted}`);
  const look = `${dark.matches ? "dark" : "light"} ${points.length <= DOTTED}`;
  if (drawn.look !== look) {
    drawn.look = look;
    drawn.view = window
      .vegaEmbed(at("drawing"), specification(rows, points.length <= DOTTED), {
        ast: true, // expressions are interpreted: the page may compile nothing
        mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false,
        config: window.looks.themes[dark.matches ? "dark" : "light"],
        tooltip: { disableDefaultStyle: true },
      })
      .then((result) => result.view);
  }
  (await drawn.view).data("points", rows).runAsync();
}

/* ---- documents, answers, snapshots ------------------------------------------------------------------------------- */

function about(row) {
  const fixed = row.static_nats == null ? null : inBits(row.static_nats) / row.bytes;
  const parts = [row.time ? `from ${row.time}` : "without a time", `read ${moment(row.read_at)}`];
  return [...parts, count(row.tokens, "token"), rates(fixed, row.bits_per_byte)].join(" · ");
}

function showDocuments() {
  const rows = held.documents.map((row) => {
    const item = made("li");
    const words = made("div");
    words.append(made("p", row.id, "id"), made("p", about(row), "about"));
    item.append(words, button("Forget", `forget ${row.seq}`, `Forget ${row.id}`, () => forget(row), "harm"));
    return item;
  });
  fill(at("documents"), rows, at("documents-title"));
  at("no-documents").hidden = rows.length > 0;
  at("more").hidden = !held.more;
}

async function forget(row) {
  const planned = await call("POST", "/v1/memory/forget", { ids: [row.id], cost: true });
  const there = planned.held_by.length;
  const named = `${there === 1 ? "The snapshot" : "The snapshots"} ${planned.held_by.join(", ")}`;
  const kept = there ? ` ${named} will still hold it.` : "";
  const text = `It will be as if it had never been read. ${price(planned.cost)}${kept}`;
  const agreed = await sure(`Forget ${short(row.id)}?`, text, "Forget", there > 0);
  if (!agreed) return;
  tell(`Forgetting ${short(row.id)} …`);
  await call("POST", "/v1/memory/forget", { ids: [row.id], purge: agreed.purge });
  await load();
  tell(`${short(row.id)} is forgotten.`);
}

async function read() {
  const [id, text, time] = [at("id").value, at("text").value, at("time").value.trim()];
  tell(`Reading ${short(id)} …`);
  soon(OFTEN / 4);
  const { data } = await call("POST", "/v1/read", { documents: [{ id, text, ...(time ? { time } : {}) }] });
  await load();
  const said = `${count(data[0].tokens, "token")} at ${bits(data[0].bits_per_byte)} bits per byte`;
  tell(`${short(data[0].id)} was read: ${said}.`);
  at("read-form").reset();
}

async function ask() {
  const question = at("question").value.trim();
  if (!question) throw new Refusal("The question is empty; write one.");
  tell("Asking …");
  const reply = await call("POST", "/v1/chat/completions", {
    model: held.model.id,
    messages: [{ role: "user", content: question }],
    temperature: 0,
    max_tokens: Math.min(WRITTEN, held.model.max_tokens),
  });
  const item = made("li");
  item.append(made("p", question, "asked"), made("p", reply.choices[0].message.content || "(no answer)", "answer"));
  if (reply.documents.length) {
    const list = made("ul", "", "sources");
    list.setAttribute("aria-label", "documents that answered");
    const shown = reply.documents.slice(0, SOURCES).filter(({ share }) => share >= LEAST);
    for (const { id, share } of shown) {
      const source = made("li");
      const bar = made("div", "", "bar");
      const part = made("i");
      part.style.width = `${100 * share}%`;
      bar.append(part);
      source.append(made("span", id), made("span", `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`, "n"), bar);
      list.append(source);
    }
    const rest = reply.documents.length - shown.length;
    item.append(list, ...(rest ? [made("p", `and ${count(rest, "other document")} with smaller shares`, "note")] : []));
  } else {
    item.append(made("p", "No document is named: the weights answered alone.", "note"));
  }
  at("answers").prepend(item);
  while (at("answers").children.length > ANSWERS) at("answers").lastChild.remove();
  tell("");
}

function showSnapshots() {
  const rows = held.snapshots.map((one) => {
    const item = made("li");
    const words = made("div");
    const gone = one.holds_forgotten ? " · holds what was forgotten since" : "";
    const about = `${count(one.documents, "document")} · taken ${moment(one.created)}${gone}`;
    words.append(made("p", one.name, "id"), made("p", about, "about"));
    const actions = made("div", "", "actions");
    const back = button("Restore", `restore ${one.name}`, `Restore ${one.name}`, () => restore(one));
    const away = button("Delete", `delete ${one.name}`, `Delete ${one.name}`, () => remove(one), "harm");
    actions.append(back, away);
    item.append(words, actions);
    return item;
  });
  fill(at("snapshots"), rows.reverse(), at("snapshots-title"));
  at("no-snapshots").hidden = rows.length > 0;
}

async function take() {
  const { name } = await call("POST", "/v1/snapshots", { name: at("name").value });
  await load();
  tell(`The snapshot ${name} is taken.`);
  at("snapshot-form").reset();
}

async function restore(one) {
  const { cost } = await call("POST", "/v1/snapshots/restore", { snapshot: one.name, cost: true });
  const back = `The memory goes back to ${count(one.documents, "document")}. ${price(cost)}`;
  const text = `${back} What is in no snapshot cannot be reached again: take one first where it matters.`;
  if (!(await sure(`Restore ${one.name}?`, text, "Restore", false))) return;
  tell(`Restoring ${one.name} …`);
  await call("POST", "/v1/snapshots/restore", { snapshot: one.name });
  await load();
  tell(`The memory is at ${one.name} again.`);
}

async function remove(one) {
  const text = "The state cannot be reached again; the memory stays as it is.";
  if (!(await sure(`Delete ${one.name}?`, text, "Delete", false))) return;
  await call("DELETE", `/v1/snapshots/${encodeURIComponent(one.name)}`);
  await load();
  tell(`The snapshot ${one.name} is deleted.`);
}

/* ---- following the server ---------------------------------------------------------------------------------------- */

async function load() {
  const { changes } = await look();
  const rows = [];
  let page;
  do {
    const after = rows.length ? `&after=${rows.at(-1).seq}` : "";
    page = await call("GET", `/v1/memory?order=desc&limit=${LISTED}${after}`);
    rows.push(...page.data);
  } while (page.has_more && rows.length < held.wanted);
  const snapshots = await call("GET", "/v1/snapshots");
  Object.assign(held, { documents: rows, more: page.has_more, snapshots: snapshots.data, changes });
  at("count").textContent = page.documents ? `(${number.format(page.documents)})` : "";
  showDocuments();
  showSnapshots();
  await look();
}

/* What is read now; no turn in the server's queue is needed for it. */
async function look() {
  const found = await call("GET", "/v1/reading");
  held.now = found.document;
  at("tenant").textContent = found.tenant;
  showReading();
  return found;
}

function soon(milliseconds) {
  clearTimeout(next);
  next = setTimeout(follow, milliseconds);
}

/* Looks again and again, and lists anew what somebody else has changed. */
async function follow() {
  let wait = SELDOM;
  try {
    if (!document.hidden && entered) {
      const found = await look();
      if (found.document?.state === "reading") wait = OFTEN;
      else if (found.changes !== held.changes) await load();
      if (at("failed").dataset.lost) {
        delete at("failed").dataset.lost;
        tell("The server answers again.");
        await load();
      }
    }
  } catch (error) {
    if ([0, 429, 503].includes(error.status)) at("failed").dataset.lost = "yes";
    refuse(error);
  }
  soon(wait);
}

/* ---- coming and going -------------------------------------------------------------------------------------------- */

function shut(why) {
  entered = false;
  sessionStorage.removeItem(KEY);
  Object.assign(held, { model: null, documents: [], more: false, snapshots: [], changes: null, now: null });
  for (const list of ["documents", "snapshots", "answers", "points"]) at(list).replaceChildren();
  for (const word of ["model", "tenant", "now", "static", "adapted", "fewer", "tokens"]) at(word).textContent = DASH;
  for (const form of ["read-form", "ask-form", "snapshot-form"]) at(form).reset();
  at("inside").hidden = at("leave").hidden = true;
  at("entrance").hidden = false;
  at("said").textContent = "";
  at("failed").textContent = why;
  at("token").focus();
}

async function enter() {
  const models = await call("GET", "/v1/models");
  held.model = models.data[0];
  at("model").textContent = held.model.id;
  at("entrance").hidden = true;
  at("inside").hidden = false;
  at("leave").hidden = !sessionStorage.getItem(KEY);
  tell("");
  entered = true;
  await load();
}

onSubmit("token-form", async () => {
  sessionStorage.setItem(KEY, at("token").value);
  at("token-form").reset();
  await enter();
  at("documents-title").focus();
});
onSubmit("read-form", read);
onSubmit("ask-form", ask);
onSubmit("snapshot-form", take);
at("leave").addEventListener("click", () => shut(""));
at("more").addEventListener("click", () =>
  act(at("more"), () => {
    held.wanted += LISTED;
    return load();
  }),
);
at("no").addEventListener("click", () => at("sure").close(""));
at("yes").addEventListener("click", () => at("sure").close("yes"));
at("vega").addEventListener("load", () => entered && showReading());
dark.addEventListener("change", () => entered && showReading());
document.addEventListener("visibilitychange", () => document.hidden || soon(0));

enter().catch(refuse).finally(() => soon(SELDOM));
