
// The conversation: questions go out as JSON, answers come back as lines of JSON. Elements are made by render.js.
const $ = (id) => document.getElementById(id);
const talk = { conversation: null, images: {}, image: null, name: "", answer: null, asking: null, isAtEnd: true, top: 0 };
const KINDS = { thought: (text) => make("p", {}, make("bdi", { text })), text: (text) => make("p", {}, make("bdi", { text })), answer: (text) => make("p", {}, make("b", { text: "Answer: " }), make("bdi", { text })), code: highlighted, call: (text) => make("pre", { text }) };

function say(text, isBad = false) { $("status").textContent = visible(text); $("status").className = isBad ? "bad" : "quiet"; }

function showImage() {
  const has = talk.image !== null;
  $("preview").hidden = $("remove").hidden = !has;
  if (has) { $("preview").src = talk.image; $("preview").alt = `chosen image ${talk.name}`; } else $("preview").removeAttribute("src");
  const hint = has ? [make("span", { text: talk.name || "image" })] : [talk.conversation ? "The image stays; drop, paste or " : "Drop, paste or ", make("u", { text: talk.conversation ? "choose another" : "choose an image" })];
  $("hint").replaceChildren(...hint);
}
function take(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) { say(`${file.name || "That"} is not an image. Choose a PNG, JPEG or WebP file.`, true); return; }
  const reader = new FileReader();
  reader.addEventListener("load", () => { talk.image = reader.result; talk.name = file.name || "pasted image"; showImage(); say(""); $("question").focus(); });
  reader.addEventListener("error", () => say("The file cannot be read.", true));
  reader.readAsDataURL(file);
}
function begin() {
  if (talk.asking) return;
  talk.conversation = null;
  talk.images = {};
  $("talk").replaceChildren(make("p", { class: "empty", text: "Choose an image and ask about it." }));
  showImage();
  say("");
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) { if (rest.trim()) yield JSON.parse(rest); return; }
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) if (part.trim()) yield JSON.parse(part);
  }
}
function exchange(question, image) {
  const settled = make("div"), live = make("div", { class: "live", hidden: "" });
  settled.append(make("h2", {}, make("bdi", { text: question })));
  if (image) settled.append(make("img", { src: image, alt: "image of the question", class: "question" }));
  const section = make("section", { class: "exchange" }, settled, live);
  $("talk").querySelector(".empty")?.remove();
  $("talk").append(section);
  talk.isAtEnd = true;
  growth.observe(section);
  return { settled, live };
}
// Images get their size when they are decoded, so it is the growth that is followed; whoever scrolls up stays there.
const growth = new ResizeObserver(() => { if (talk.isAtEnd) $("talk").scrollTop = $("talk").scrollHeight; });
function take_news(news, shown) {
  if (news.conversation) talk.conversation = news.conversation;
  Object.assign(talk.images, Object.fromEntries(Object.entries(news.images || {}).filter(([, stored]) => stored)));
  if (news.record) {
    shown.settled.replaceChildren(renderTrajectory(news.record, talk.images));
    talk.answer = news.record.answer;
  }
  if (news.parts) {
    shown.live.replaceChildren(...news.parts.map(([kind, text]) => KINDS[kind](text)));
    shown.live.hidden = !news.parts.length;
  }
  if (news.state === "waiting") say(news.ahead > 1 ? `waiting: ${news.ahead} questions are answered first` : "waiting for the previous answer");
  else if (news.state === "writing") say("writing");
  else if (news.state) say(talk.answer === null ? news.message : `answer: ${talk.answer} (${news.message})`, news.state === "failed");
}

async function ask(event) {
  event.preventDefault();
  const question = $("question").value.trim();
  if (talk.asking || !question) return;
  if (!talk.conversation && !talk.image) { say("Choose an image first.", true); $("file").focus(); return; }
  const shown = exchange(question, talk.image);
  const sent = { conversation: talk.conversation, question, image: talk.image };
  talk.asking = new AbortController();
  talk.answer = null;
  busy(true);
  say("sending");
  let isTaken = false;
  try {
    const reply = await fetch("/api/ask", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(sent), signal: talk.asking.signal });
    if (!reply.ok) {
      const { error } = await reply.json();
      if (error.code === "no_conversation") talk.conversation = null;
      throw new Error(error.message);
    }
    let last = {};
    for await (const news of lines(reply.body)) { take_news(news, shown); last = news; }
    // Stopped before a word was said, the question and its image were not taken: both stay for another try.
    if (last.state === "done") isTaken = shown.settled.querySelector("article") !== null;
    else if (last.state !== "failed") throw new Error("The connection was lost.");
  } catch (error) {
    say(error.name === "TypeError" ? "The server does not answer. Is it still running?" : error.message, true);
  }
  if (isTaken) { talk.image = null; $("question").value = ""; $("file").value = ""; }
  if (!isTaken && !shown.settled.querySelector("article")) shown.settled.parentElement.remove();
  talk.asking = null;
  busy(false);
  showImage();
  $("question").focus();
}
function busy(isBusy) {
  $("send").hidden = isBusy;
  $("stop").hidden = !isBusy;
  $("stop").disabled = false;
  $("new").disabled = isBusy;
  $("talk").setAttribute("aria-busy", String(isBusy));
}
async function stop() {
  if (!talk.asking) return;
  $("stop").disabled = true;
  say("stopping");
  if (!talk.conversation) { talk.asking.abort(); return; }
  try {
    await fetch("/api/stop", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ conversation: talk.conversation }) });
  } catch { talk.asking?.abort(); }
}

$("ask").addEventListener("submit", ask);
$("stop").addEventListener("click", stop);
$("new").addEventListener("click", begin);
$("remove").addEventListener("click", () => { talk.image = null; $("file").value = ""; showImage(); });
$("file").addEventListener("change", () => take($("file").files[0]));
$("question").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) ask(event); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
document.addEventListener("paste", (event) => { const file = [...event.clipboardData.files][0]; if (file) { event.preventDefault(); take(file); } });
const hasFiles = (event) => event.dataTransfer.types.includes("Files"); // words that are dragged go where they go
for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => { if (hasFiles(event)) { event.preventDefault(); $("drop").classList.add("over"); } });
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => { if (hasFiles(event)) { event.preventDefault(); take(event.dataTransfer.files[0]); } });
$("talk").addEventListener("scroll", () => {
  const pane = $("talk"), isUp = pane.scrollTop < talk.top;
  talk.top = pane.scrollTop;
  if (pane.scrollHeight - pane.scrollTop - pane.clientHeight < 120) talk.isAtEnd = true;
  else if (isUp) talk.isAtEnd = false; // growth alone does not leave the end
});
growth.observe($("talk"));
begin();
document.body.dataset.ready = "yes";
