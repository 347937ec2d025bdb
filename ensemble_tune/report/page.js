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

// Trials: sorted by a click on a column's name, filtered by words, stage and status.
function sort(head, button) {
  const table = head.closest("table");
  const column = [...head.parentElement.children].indexOf(head);
  const rows = [...table.tBodies[0].rows];
  const keys = new Map(rows.map((row) => {
    const cell = row.cells[column];
    return [row, cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v)];
  }));
  const numbers = rows.some((row) => typeof keys.get(row) === "number");
  const down = head.ariaSort ? head.ariaSort === "ascending" : numbers;  // the largest number first
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.ariaSort = down ? "descending" : "ascending";
  const lacking = (key) => key === "-" || key === "";
  rows.sort((a, b) => {
    const [one, two] = [keys.get(a), keys.get(b)];
    if (lacking(one) !== lacking(two)) return lacking(one) ? 1 : -1;
    const order = typeof one === "number" && typeof two === "number" ? one - two
      : String(one).localeCompare(String(two), undefined, { numeric: true });
    return down ? -order : order;
  });
  table.tBodies[0].append(...rows);
  button.focus();
}
for (const button of document.querySelectorAll(".sortable button")) {
  button.addEventListener("click", () => sort(button.closest("th"), button));
}

const [find, stage, status] = ["find", "stage", "status"].map((id) => document.getElementById(id));
function filter() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0, all = 0;
  for (const block of document.querySelectorAll(".trials")) {
    let here = 0;
    for (const row of block.querySelectorAll("tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = (stage.value && stage.value !== block.dataset.stage)
        || (status.value && status.value !== row.dataset.status)
        || !words.every((word) => text.includes(word));
      here += row.hidden ? 0 : 1;
      all += 1;
    }
    block.hidden = here === 0;
    shown += here;
  }
  document.getElementById("count").textContent = shown === all ? `${all} trials` : `${shown} of ${all} trials`;
}
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
for (const each of [find, stage, status]) each.addEventListener("input", filter);
filter();
drawAll();
