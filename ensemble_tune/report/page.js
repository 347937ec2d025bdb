"use strict";
// Figures: plotly draws each from the data beside it, in the page's own colours.
const root = document.documentElement;
const narrow = matchMedia("(max-width: 600px)");
const canvases = [...document.querySelectorAll(".canvas")];

function colours() {
  const probe = getComputedStyle(document.getElementById("probe"));
  return { ink: probe.color, page: probe.backgroundColor, line: probe.borderTopColor };
}

function themed(layout) {
  const { ink, page, line } = colours();
  const update = {
    "font.color": ink, "font.family": getComputedStyle(document.body).fontFamily, "font.size": 13,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    "hoverlabel.bgcolor": page, "hoverlabel.bordercolor": line, "hoverlabel.font.color": ink,
    "modebar.color": line, "modebar.activecolor": ink, "modebar.bgcolor": "rgba(0,0,0,0)",
    dragmode: narrow.matches ? false : "zoom",
  };
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    for (const part of ["gridcolor", "linecolor", "zerolinecolor"]) update[`${axis}.${part}`] = line;
    update[`${axis}.title.font.size`] = 13;
  }
  return update;
}

const config = {
  responsive: true, displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
};

async function draw(canvas) {
  const { data, layout } = JSON.parse(canvas.nextElementSibling.textContent);
  layout.xaxis = layout.xaxis || {};
  layout.yaxis = layout.yaxis || {};
  // Numbers in cells keep the colour that they are drawn with.
  for (const trace of data.filter((each) => each.texttemplate)) trace.textfont.color = colours().ink;
  await Plotly.newPlot(canvas, data, layout, config);
  await Plotly.relayout(canvas, themed(canvas.layout));
  canvas.dataset.drawn = "yes";
}

async function drawAll() {
  for (const canvas of canvases) {
    await draw(canvas);
    await new Promise((resolve) => setTimeout(resolve));  // the page stays usable meanwhile
  }
  root.dataset.drawn = "all";
}

function repaint() {
  for (const canvas of canvases.filter((each) => each.dataset.drawn)) {
    if (canvas.data.some((trace) => trace.texttemplate)) draw(canvas);
    else Plotly.relayout(canvas, { ...themed(canvas.layout), autosize: true });
    Plotly.Plots.resize(canvas);
  }
}

const theme = document.getElementById("theme");
theme.addEventListener("change", () => { root.style.colorScheme = theme.value; repaint(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
addEventListener("beforeprint", () => { root.style.colorScheme = "light"; document.body.style.width = "180mm"; repaint(); });
addEventListener("afterprint", () => { root.style.colorScheme = theme.value; document.body.style.width = ""; repaint(); });

// Frames: a slider between truth and prediction.
for (const picture of document.querySelectorAll(".picture")) {
  picture.querySelector("input").addEventListener("input", (event) => picture.style.setProperty("--at", `${event.target.value}%`));
}
const plain = document.getElementById("plain");
if (plain) plain.addEventListener("change", () => document.getElementById("frames").classList.toggle("plain", plain.checked));

// Trials: sorted by a click on a column's name, filtered by words, stage and status, some hundreds of them at once.
const STEP = 500;

function element(texts) {
  const row = document.createElement("tr");
  texts.forEach((text, place) => {
    const cell = document.createElement(place ? "td" : "th");
    if (!place) cell.scope = "row";
    cell.textContent = text;
    row.append(cell);
  });
  return row;
}

// Each row is its cells' texts; its element is made when it is shown for the first time.
const tables = [...document.querySelectorAll(".trials")].map((block) => {
  const body = block.querySelector("tbody");
  const there = [...body.rows].map((row) => ({ texts: [...row.cells].map((cell) => cell.textContent), element: row }));
  const others = JSON.parse(block.querySelector("script").textContent).map((texts) => ({ texts, element: null }));
  const rows = [...there, ...others];
  for (const row of rows) row.words = row.texts.join(" ").toLowerCase();
  return { block, body, rows, limit: Math.max(STEP, there.length), more: block.querySelector(".more") };
});

function key(text) {
  const number = Number(text);
  return text.trim() === "" || Number.isNaN(number) ? text : number;
}

function sort(head, button) {
  const table = tables.find((each) => each.block.contains(head));
  const column = [...head.parentElement.children].indexOf(head);
  const keys = new Map(table.rows.map((row) => [row, key(row.texts[column])]));
  const numbers = table.rows.some((row) => typeof keys.get(row) === "number");
  const down = head.ariaSort ? head.ariaSort === "ascending" : numbers;  // the largest number first
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.ariaSort = down ? "descending" : "ascending";
  const lacking = (text) => text === "-" || text === "";
  const { compare } = new Intl.Collator(undefined, { numeric: true });
  table.rows.sort((a, b) => {
    const [one, two] = [keys.get(a), keys.get(b)];
    if (lacking(one) !== lacking(two)) return lacking(one) ? 1 : -1;
    const order = typeof one === "number" && typeof two === "number" ? one - two : compare(String(one), String(two));
    return down ? -order : order;
  });
  show(table);
  button.focus();
}
for (const button of document.querySelectorAll(".sortable button")) {
  button.addEventListener("click", () => sort(button.closest("th"), button));
}

const [find, stage, status] = ["find", "stage", "status"].map((id) => document.getElementById(id));

// Fills a table with the rows that are asked for, as far as its limit; how many are asked for.
function show(table) {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const here = !stage.value || stage.value === table.block.dataset.stage;
  const found = here ? table.rows.filter((row) => (!status.value || status.value === row.texts[1])
    && words.every((word) => row.words.includes(word))) : [];
  const shown = found.slice(0, table.limit);
  table.body.replaceChildren(...shown.map((row) => (row.element ||= element(row.texts))));
  table.block.hidden = found.length === 0;
  const left = found.length - shown.length;
  table.more.parentElement.hidden = left === 0;
  table.more.textContent = `Show ${Math.min(STEP, left)} more of ${left}`;
  return found.length;
}

function filter() {
  const all = tables.reduce((sum, table) => sum + table.rows.length, 0);
  const found = tables.reduce((sum, table) => sum + show(table), 0);
  document.getElementById("count").textContent = found === all ? `${all} trials` : `${found} of ${all} trials`;
}
for (const table of tables) {
  table.more.addEventListener("click", () => { table.limit += STEP; show(table); });
}
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
for (const each of [find, stage, status]) each.addEventListener("input", filter);
filter();
drawAll();
