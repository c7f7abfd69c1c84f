"use strict";
// The list of trajectories: filters, keyboard, group mates.
const FILTERS = {
  family: (record, value) => record.family === value,
  verdict: (record, value) => verdict(record)[0] === value,
  kind: (record, value) => record.kind === value,
  tool: (record, value) => tools(record).includes(value),
  trait: (record, value) => (value === "recovered" ? record.has_recovered || record.kind === "recovered" : list(record.emergent).length > 0 || record.kind === "emergent"),
  step: (record, value) => String(record.step) === value,
};

function startViewer(data) {
  const { records, images } = data;
  const state = { shown: [], at: -1 };
  const choices = {
    family: records.map((record) => record.family), verdict: ["right", "wrong", "not judged"], kind: records.map((record) => record.kind),
    tool: records.flatMap(tools), trait: ["recovered", "emergent"], step: records.map((record) => record.step),
  };
  const form = make("form", { class: "filters", "aria-label": "filters" });
  form.addEventListener("submit", (event) => event.preventDefault());
  const fields = {};
  for (const [name, values] of Object.entries(choices)) {
    const select = make("select", { id: `filter-${name}`, name }, make("option", { value: "", text: "all" }));
    const distinct = [...new Set(values.filter((value) => value !== undefined && value !== null && value !== "").map(String))];
    distinct.sort((left, right) => left.localeCompare(right, undefined, { numeric: true }));
    for (const value of distinct) select.append(make("option", { value, text: value.slice(0, 80) }));
    select.addEventListener("change", () => apply());
    fields[name] = select;
    form.append(make("div", {}, make("label", { for: `filter-${name}`, text: name }), select));
  }
  const search = make("input", { id: "search", type: "search", oninput: () => apply() });
  form.append(make("div", { class: "wide" }, make("label", { for: "search", text: "text (press /)" }), search));
  const count = make("p", { class: "quiet wide", role: "status", id: "count" });
  form.append(count);
  const entries = make("ol", { class: "list", "aria-label": "trajectories" });
  const detail = make("main", { id: "detail", tabindex: "-1", "aria-live": "off" });
  document.body.append(make("div", { class: "layout" }, make("nav", { "aria-label": "list" }, form, entries), detail));
  const buttons = records.map((record, index) => {
    const [word, style] = verdict(record);
    const button = make("button", { type: "button", onclick: () => select(index) }, make("span", { class: style, text: `${word} · reward ${number(record.reward)} · ${record.kind || ""}${record.step === undefined ? "" : `, step ${record.step}`}` }), make("span", {}, quoted(record.question)), make("span", { class: "quiet", text: `${tools(record).join(", ") || "no tool"} · ${list(record.turns).length} turns` }));
    return make("li", {}, button);
  });
  const texts = records.map((record) => JSON.stringify([record.question, record.answer, record.truth, record.id, record.turns]).toLowerCase());

  function apply(wanted) {
    const word = search.value.toLowerCase();
    state.shown = records.map((_, index) => index).filter((index) => (!word || texts[index].includes(word)) && Object.entries(fields).every(([name, field]) => !field.value || FILTERS[name](records[index], field.value)));
    entries.replaceChildren(...state.shown.map((index) => buttons[index]));
    count.textContent = `${state.shown.length} of ${records.length} trajectories; j and k step through them`;
    if (state.shown.length) select(state.shown.includes(wanted) ? wanted : state.shown.includes(state.at) ? state.at : state.shown[0], false);
    else { state.at = -1; detail.replaceChildren(make("p", { text: "No trajectory matches these filters." })); }
  }
  function mates(record) {
    if (record.group === undefined || record.group === null) return [];
    return records.map((mate, index) => [mate, index]).filter(([mate]) => mate.run === record.run && mate.step === record.step && mate.group === record.group);
  }
  function matesPart(record) {
    const seen = new Set();
    const group = mates(record).filter(([mate]) => { const fresh = !seen.has(mate.rollout) || mate === record; seen.add(mate.rollout); return fresh; });
    if (group.length < 2) return null;
    const row = make("div", { class: "mates", tabindex: "0", role: "group", "aria-label": "group mates" });
    for (const [mate, index] of group) {
      const [word, style] = verdict(mate);
      const last = list(mate.images).at(-1);
      row.append(make("article", { "aria-current": String(mate === record) }, make("p", { class: style }, `${word}: `, quoted(mate.answer)), make("p", { class: "quiet", text: `reward ${number(mate.reward)}: ${paid(mate.terms)}` }), make("p", { class: "quiet", text: `${tools(mate).join(", ") || "no tool"} · ${list(mate.turns).length} turns` }), last ? picture(mate, last, mate.images.length - 1, images) : null, make("button", { type: "button", text: `show rollout ${mate.rollout ?? index}`, onclick: () => select(index) })));
    }
    return make("section", {}, make("h2", { text: `Group mates (${group.length})` }), row);
  }
  function select(index, scroll = true) {
    if (state.at >= 0) buttons[state.at].firstChild.removeAttribute("aria-current");
    state.at = index;
    const button = buttons[index].firstChild;
    button.setAttribute("aria-current", "true");
    button.scrollIntoView({ block: "nearest" });
    detail.replaceChildren(...[renderTrajectory(records[index], images), matesPart(records[index])].filter(Boolean));
    detail.scrollTop = 0;
    if (scroll) {
      if (matchMedia("(max-width: 760px)").matches) detail.scrollIntoView();
      history.replaceState(null, "", `#t=${index}`);
    }
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select, textarea")) { if (event.key === "Escape") event.target.blur(); return; }
    const place = state.shown.indexOf(state.at);
    const next = { j: place + 1, ArrowRight: place + 1, k: place - 1, ArrowLeft: place - 1, Home: 0, End: state.shown.length - 1 }[event.key];
    if (event.key === "/") { search.focus(); event.preventDefault(); }
    else if (next !== undefined && state.shown[next] !== undefined) { select(state.shown[next]); event.preventDefault(); }
  });
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const [name, field] of Object.entries(fields)) if (wanted.has(name)) field.value = wanted.get(name);
  if (wanted.has("text")) search.value = wanted.get("text");
  apply(Number(wanted.get("t") ?? -1));
}

const DATA = JSON.parse(document.getElementById("data").textContent);
if (DATA.records) startViewer(DATA);
document.body.dataset.readyMs = Math.round(performance.now());
