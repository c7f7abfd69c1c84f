"use strict";
// What the pages of trajectories and of a chat share. Whatever a record holds reaches the page as text only (textContent), never as markup.
const LONGEST_TEXT = 6000;

function visible(value) {
  const text = String(value);
  const cut = text.length > LONGEST_TEXT ? `${text.slice(0, LONGEST_TEXT)}\n[${text.length - LONGEST_TEXT} more characters]` : text;
  const whole = cut.toWellFormed ? cut.toWellFormed() : cut; // byte-level tokens may leave half a surrogate pair
  return whole.replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)));
}
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") element.textContent = visible(value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const number = (value) => (typeof value === "number" ? String(+value.toPrecision(3)) : "-");
const quoted = (value) => (value === null || value === undefined ? make("span", { class: "quiet", text: "none" }) : make("bdi", { text: value }));
const list = (value) => (Array.isArray(value) ? value : []);

const PYTHON = /(#[^\n]*)|("""[\s\S]*?"""|'''[\s\S]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|\b(and|as|assert|break|class|continue|def|del|elif|else|except|False|finally|for|from|if|import|in|is|lambda|None|not|or|pass|raise|return|True|try|while|with|yield)\b|\b(\d[\d_.eE]*)\b/g;
function highlighted(code) {
  const pre = make("pre", { class: "code", tabindex: "0", "aria-label": "Python code" });
  const text = visible(code);
  let end = 0;
  for (const match of text.matchAll(PYTHON)) {
    pre.append(text.slice(end, match.index));
    const kind = match[1] ? "c" : match[2] ? "s" : match[3] ? "k" : "n";
    pre.append(make("span", { class: kind, text: match[0] }));
    end = match.index + match[0].length;
  }
  pre.append(text.slice(end));
  return pre;
}

function corners(box, frame) {
  // The frame leads from this image into the root's pixels; the box lies there, so its corners come back by the inverse.
  const [a, b, c, d, e, f] = frame;
  const determinant = a * e - b * d;
  if (!Number.isFinite(determinant) || Math.abs(determinant) < 1e-12) return null;
  const [x1, y1, x2, y2] = box;
  return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]].map(([x, y]) => [(e * (x - c) - b * (y - f)) / determinant, (a * (y - f) - d * (x - c)) / determinant]);
}
function picture(record, image, index, images) {
  const stored = images[image.file];
  const label = `image ${index}${image.turn >= 0 ? `, made in turn ${image.turn + 1}` : ", of the question"}`;
  if (!stored) return make("figure", {}, make("p", { class: "bad", text: `${label}: its file is missing or cannot be read` }));
  const width = image.width || stored.width, height = image.height || stored.height;
  const shown = make("img", { src: stored.uri, alt: label, loading: "lazy", decoding: "async" });
  if (width < 224 && height < 224) { shown.className = "small"; shown.style.width = `${width * 2}px`; }
  const frame = make("div", { class: "frame" }, shown);
  const map = image.frame || (image.turn < 0 ? [1, 0, 0, 0, 1, 0] : null);
  let note = "";
  if (record.box && (image.root || 0) === 0 && map) {
    const points = corners(record.box, map);
    if (points) {
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("preserveAspectRatio", "none");
      svg.setAttribute("aria-hidden", "true");
      const polygon = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
      polygon.setAttribute("points", points.map((point) => point.map((value) => +value.toFixed(2)).join(",")).join(" "));
      svg.append(polygon);
      frame.append(svg);
      note = ", the answer's region outlined";
    }
  }
  return make("figure", {}, frame, make("figcaption", { text: `${label}, ${width} x ${height}${image.orientation && image.orientation !== "identity" ? `, ${image.orientation}` : ""}${note}` }));
}

function callOf(turn) {
  if (turn.call) return turn.call;
  const match = /<tool_call>([\s\S]*?)<\/tool_call>/.exec(String(turn.text).replace(/<think>[\s\S]*?<\/think>/g, ""));
  try { return match ? JSON.parse(match[1]).arguments || null : null; } catch { return null; }
}
function paid(terms) {
  const some = Object.entries(terms || {}).filter(([, value]) => value);
  return some.length ? some.map(([name, value]) => `${name} ${value > 0 ? "+" : ""}${number(value)}`).join(", ") : "nothing";
}
function turnPart(record, turn, index, images) {
  const part = make("section", { class: "turn", "aria-label": `turn ${index + 1}` }, make("h3", { text: `Turn ${index + 1}` }));
  const text = String(turn.text || "");
  const thought = /<think>([\s\S]*?)(<\/think>|$)/.exec(text);
  const answer = /<answer>([\s\S]*?)<\/answer>/.exec(text.replace(/<think>[\s\S]*?<\/think>/g, ""));
  const call = callOf(turn);
  if (thought && thought[1].trim()) part.append(make("p", {}, make("bdi", { text: thought[1].trim() })));
  if (call && typeof call.code === "string") {
    const tool = call.name && call.name !== "code_image_tool" ? call.name : "code";
    part.append(make("p", { class: "quiet", text: `${tool} on image ${turn.image_index ?? 0}${call.description ? `: ${call.description}` : ""}` }));
    if (call.arguments) part.append(make("pre", { class: "code", tabindex: "0", "aria-label": "arguments", text: JSON.stringify(call.arguments) }));
    else if (call.code) part.append(highlighted(call.code));
  }
  if (answer) part.append(make("p", {}, make("b", { text: "Answer: " }), make("bdi", { text: answer[1].trim() })));
  if (turn.fault) part.append(make("p", { class: "bad" }, make("bdi", { text: `No call and no answer: ${turn.fault}` })));
  const seen = turn.observation;
  if (seen) {
    const tools = list(seen.tools).join(", ") || "no verified effect";
    const place = [seen.lane && `${seen.lane} lane`, seen.exactness, seen.library].filter(Boolean).join(", ");
    part.append(make("p", { class: seen.status === "ok" ? "good" : "bad", text: `${seen.status}: ${tools}${place && ` (${place})`}` }));
    if (seen.text) part.append(make("pre", { text: seen.text, tabindex: "0", "aria-label": "output" }));
  }
  list(record.images).forEach((image, position) => { if (image.turn === index) part.append(picture(record, image, position, images)); });
  if (turn.credit) part.append(make("p", { class: "quiet credit", text: `reward of this turn: ${paid(turn.credit)}` }));
  part.append(make("details", {}, make("summary", { text: "as written" }), make("pre", { text, tabindex: "0" })));
  return part;
}
function rewardTable(record) {
  const names = Object.keys(record.terms || {}).filter((name) => record.terms[name] || list(record.turns).some((turn) => turn.credit && turn.credit[name]));
  if (!names.length) return null;
  const credited = list(record.turns).some((turn) => turn.credit);
  const head = make("tr", {}, make("th", { text: "reward", scope: "col" }), ...names.map((name) => make("th", { text: name, scope: "col" })), make("th", { text: "sum", scope: "col" }));
  const line = (label, terms) => make("tr", {}, make("th", { text: label, scope: "row" }), ...names.map((name) => make("td", { text: number(terms[name] || 0) })), make("td", { text: number(Object.values(terms).reduce((sum, value) => sum + (value || 0), 0)) }));
  const body = make("tbody");
  if (credited) record.turns.forEach((turn, index) => body.append(line(`turn ${index + 1}`, turn.credit || {})));
  body.append(line("total", record.terms));
  return make("div", { class: "scroll", tabindex: "0" }, make("table", {}, make("thead", {}, head), body));
}
const verdict = (record) => (record.is_right === true ? ["right", "good"] : record.is_right === false ? ["wrong", "bad"] : record.kind === "chat" ? ["answer", "good"] : ["not judged", "quiet"]);

function questionParts(record, images) {
  // An "<image>" in a question is the place of an image; images without a place come first.
  const asked = list(record.images).filter((image, index) => !(image.turn >= 0) && index >= (record.first_image || 0));
  const texts = String(record.question || "").split("<image>");
  const first = asked.length - texts.length + 1;
  if (first < 0) return [make("bdi", { text: record.question })];
  return texts.flatMap((text, place) => {
    const words = make("bdi", { text });
    if (!place) return [words];
    const index = first + place - 1, stored = images[asked[index].file];
    const shown = stored ? make("img", { src: stored.uri, alt: `image ${index}`, class: "place" }) : ` [image ${index}] `;
    if (stored) shown.style.height = "3em";
    return [shown, words];
  });
}

function renderTrajectory(record, images) {
  const [word, style] = verdict(record);
  const article = make("article", { class: "trajectory" }, make("h2", {}, ...questionParts(record, images)));
  const outcome = make("p", { class: style }, `${word}: `, quoted(record.answer));
  if (record.truth !== undefined) outcome.append(", truth ", quoted(record.truth));
  const isChat = record.kind === "chat"; // nothing is known about its image, and its answer may still be written
  if (!isChat || typeof record.answer === "string") article.append(outcome);
  const facts = isChat ? [record.stop_reason && record.stop_reason !== "answered" && `ended: ${record.stop_reason}`] : [record.kind, record.family, record.transforms && `done to the image: ${list(record.transforms).join(" then ") || "nothing"}`, record.stop_reason && `ended: ${record.stop_reason}`, record.has_recovered && "recovered from an error", list(record.emergent).length && `emergent: ${record.emergent.join(", ")}`, record.id];
  if (facts.some(Boolean)) article.append(make("p", { class: "quiet" }, make("bdi", { text: facts.filter(Boolean).join(" · ") })));
  const table = rewardTable(record);
  if (table) article.append(table);
  list(record.images).forEach((image, index) => { if (!(image.turn >= 0) && index >= (record.first_image || 0)) article.append(picture(record, image, index, images)); });
  list(record.turns).forEach((turn, index) => article.append(turnPart(record, turn, index, images)));
  return article;
}

function tools(record) { return [...new Set(list(record.turns).flatMap((turn) => list(turn.observation && turn.observation.tools)))]; }
