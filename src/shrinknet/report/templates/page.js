"use strict";
(() => {
  const runs = JSON.parse(document.getElementById("runs").textContent);
  const $ = (id) => document.getElementById(id);
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8c6d31", "#7f7f7f"]; // Okabe and Ito
  const DASHES = ["solid", "dash", "dashdot", "longdash", "solid", "dash", "dashdot", "longdash"];
  const BUDGETS = {
    flash_bytes: ["flash", "bytes of the file that ships"], peak_ram_bytes: ["RAM", "bytes of memory at the peak"],
    num_neurons: ["neurons", "neurons"], num_parameters: ["parameters", "parameters"], macs: ["MACs", "multiplications a sample"],
  };
  const whole = (value) => Math.round(value).toLocaleString("en-US");
  const bytes = (value) => (value < 1024 ? `${value} B` : value < 1048576 ? `${(value / 1024).toFixed(1)} KiB` : `${(value / 1048576).toFixed(2)} MiB`);
  const shown = (cost, value) => (cost.endsWith("bytes") ? bytes(value) : whole(value));
  const figure = (value) => (value === null || value === undefined ? "" : Math.abs(value) >= 1e-3 || value === 0 ? String(+value.toPrecision(4)) : value.toExponential(2));
  const percent = (value) => `${(100 * value).toFixed(2)} %`;
  const text = (value) => String(value).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // the charts read mark-up
  const state = { run: 0, cost: "flash_bytes", place: runs[0].handed };
  const run = () => runs[state.run];
  const METRICS = new Map(runs.flatMap((one) => one.metrics.map((metric) => [metric.name, metric])));
  for (const one of runs) { // each metric as columns of its own, like the loss's
    for (const name of METRICS.keys()) {
      const found = one.metrics.find((metric) => metric.name === name), none = one.steps.map(() => null);
      one[`metric-${name}`] = found ? found.values : none;
      one[`bare-${name}`] = found ? found.bare : none;
    }
  }
  for (const one of runs) { // how many neurons each group has at each step
    const left = one.groups.map((group) => group.width);
    one.left = one.went.map((pairs) => { for (const [group, count] of pairs) left[group] -= count; return left.slice(); });
  }

  function neuronsOf(one, place) {
    const names = one.removed[place].map(([group, index]) => `${one.groups[group].name}[${index}]`);
    const more = one.counts[place] - names.length;
    const back = one.restored[place].map(([group, index]) => `${one.groups[group].name}[${index}]`).join(", ");
    const gone = names.join(", ") + (more > 0 ? ` and ${more} more` : "");
    return (gone || (back ? "nothing" : "nothing yet")) + (back ? `, and ${back} came back` : "");
  }

  function refitAt(one, place) { // the network handed back, where no neuron went but all weights moved together
    return place && !one.counts[place] && !one.restored[place].length ? `After step ${one.steps[place]}: all weights ${one.moved}` : "";
  }

  function scored(one, place) {
    if (one.scores[place] === null) return "";
    return one.highest[place] === null ? `score ${figure(one.scores[place])}, ` : `scores ${figure(one.scores[place])} to ${figure(one.highest[place])}, `;
  }

  function thin(length) { // a line of more points than the screen has is drawn by fewer; the slider knows them all
    const stride = Math.max(1, Math.ceil(length / 1500));
    const places = [];
    for (let k = 0; k < length; k += stride) places.push(k);
    if (places[places.length - 1] !== length - 1) places.push(length - 1);
    return places;
  }

  function look() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    return { ink: of("--ink"), soft: of("--soft"), line: of("--line"), paper: of("--paper"), gone: of("--gone"), accent: of("--accent") };
  }

  function layout(height, more) {
    const now = look();
    const axis = { gridcolor: now.line, zerolinecolor: now.line, linecolor: now.line, automargin: true };
    const base = {
      height, margin: { l: 56, r: 14, t: 10, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 13, color: now.ink }, hovermode: "closest", showlegend: false,
      hoverlabel: { bgcolor: now.paper, bordercolor: now.line, font: { color: now.ink }, align: "left" },
    };
    return { ...base, ...more, xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis } };
  }

  const CONFIG = { displayModeBar: false, responsive: true };
  const clickable = new Set();

  function curve(id, values, bare, more, format) {
    const traces = [];
    runs.forEach((one, k) => {
      const places = thin(one.steps.length);
      const x = (place) => one.costs[state.cost][place];
      const went = (place) => refitAt(one, place) || `step ${one.steps[place]}<br>removed: ${text(neuronsOf(one, place))}<br>${scored(one, place)}true rise ${figure(one.rises[place])}`;
      const hover = places.map((place) => `${text(one.name)}, ${went(place)}<br>${shown(state.cost, x(place))}: ${format(one[values][place])}`);
      if (one[bare].some((value) => value !== null)) {
        traces.push({ x: places.map(x), y: places.map((place) => one[bare][place]), mode: "lines", hoverinfo: "skip", line: { color: COLOURS[k % 8], width: 1.5, dash: "dot" }, name: `${text(one.name)}, nothing made up for` });
      }
      traces.push({ x: places.map(x), y: places.map((place) => one[values][place]), customdata: places.map((place) => [k, place]), mode: "lines+markers", marker: { size: places.length > 120 ? 1 : 4, color: COLOURS[k % 8] }, line: { color: COLOURS[k % 8], width: 2, dash: DASHES[k % 8] }, text: hover, hoverinfo: "text", name: text(one.name) });
      traces.push({ x: [x(one.handed)], y: [one[values][one.handed]], mode: "markers", hoverinfo: "skip", showlegend: false, marker: { symbol: "circle-open", size: 13, line: { width: 3 }, color: COLOURS[k % 8] } });
    });
    traces.push({ x: [run().costs[state.cost][state.place]], y: [run()[values][state.place]], mode: "markers", hoverinfo: "skip", showlegend: false, marker: { symbol: "diamond", size: 13, color: look().ink, line: { width: 2, color: look().paper } } });
    const drawn = layout(330, { ...more, showlegend: traces.filter((trace) => trace.showlegend !== false).length > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 60, r: 14, t: 34, b: 44 }, xaxis: { autorange: "reversed", title: { text: BUDGETS[state.cost][1] } } });
    Plotly.react(id, traces, drawn, CONFIG);
    if (!clickable.has(id)) {
      clickable.add(id);
      $(id).on("plotly_click", (event) => {
        const found = event.points.map((point) => point.customdata).find(Boolean);
        if (found) { [state.run, state.place] = found; $("fits").textContent = ""; update(); }
      });
    }
  }

  function groups() {
    const one = run(), left = one.left[state.place], now = look();
    const names = one.groups.map((group) => text(group.name));
    const bar = (x, name, color) => ({ type: "bar", orientation: "h", y: names, x, name, marker: { color }, hovertemplate: "%{y}: %{x} " + name + "<extra></extra>" });
    const gone = one.groups.map((group, k) => group.width - left[k]);
    Plotly.react("groups", [bar(left, "kept", now.accent), bar(gone, "removed", now.gone)], layout(90 + 26 * names.length, { barmode: "stack", showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 60, r: 14, t: 30, b: 44 }, yaxis: { autorange: "reversed", type: "category" }, xaxis: { title: { text: "neurons" } } }), CONFIG);
  }

  function order() {
    const one = run(), places = thin(one.steps.length);
    const traces = one.groups.map((group, k) => ({ x: places.map((place) => one.steps[place]), y: places.map((place) => one.left[place][k]), name: text(group.name), mode: "lines", line: { shape: "hv", width: 2, color: COLOURS[k % 8], dash: DASHES[k % 8] } }));
    const line = { type: "line", xref: "x", yref: "paper", x0: one.steps[state.place], x1: one.steps[state.place], y0: 0, y1: 1, line: { color: look().soft, width: 1.5 } };
    Plotly.react("order", traces, layout(300, { shapes: [line], showlegend: traces.length > 1 && traces.length < 13, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 60, r: 14, t: 30, b: 44 }, xaxis: { title: { text: "step" } }, yaxis: { title: { text: "neurons left" } } }), CONFIG);
  }

  function recallAt(one, place) {
    const at = one.recalls.at;
    let k = 0;
    while (k + 1 < at.length && at[k + 1] <= place) k += 1;
    return one.recalls.recalls[k];
  }

  function recalls() {
    const one = run();
    const now = one.recalls && recallAt(one, state.place);
    $("recalls-part").hidden = !now;
    if (!now) return;
    const before = one.recalls.recalls[0];
    let classes = before.map((_, k) => k).filter((k) => before[k] >= 0);
    if (classes.length > 30) classes = classes.sort((a, b) => now[a] - now[b]).slice(0, 30);
    const names = classes.map((k) => `class ${k}`);
    const colours = look();
    Plotly.react("recalls", [
      { type: "bar", x: names, y: classes.map((k) => now[k] / 100), name: "now", marker: { color: colours.accent }, hovertemplate: "%{x}: %{y:.2f} %<extra>now</extra>" },
      { x: names, y: classes.map((k) => before[k] / 100), name: "before", mode: "markers", marker: { symbol: "line-ew-open", size: 22, color: colours.ink, line: { width: 2 } }, hovertemplate: "%{x}: %{y:.2f} %<extra>before</extra>" },
    ], layout(300, { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 56, r: 14, t: 30, b: 60 }, yaxis: { range: [0, 104], title: { text: "recall, %" } }, xaxis: { type: "category" } }), CONFIG);
  }

  function surface() {
    const one = run(), found = one.surfaces.find((s) => s.step === one.steps[state.place]);
    $("surface").hidden = !found;
    const near = one.surfaces.map((s) => s.step).sort((a, b) => Math.abs(a - one.steps[state.place]) - Math.abs(b - one.steps[state.place]))[0];
    const refit = one.bare_loss.some((value) => value !== null) ? " That is before its readers make up for it." : "";
    $("surface-words").textContent = found ? `${found.neuron}: ${found.verdict}; ${found.ground}.${refit}`
      : one.surfaces.length ? `The nearest step whose error surface was computed is ${near}.`
        : `Its error surface is not in the folder: shrinknet analyse surface ${one.folder} --every 1 computes it.`;
    if (!found) return;
    const line = (y, name, color, dash) => ({ x: found.alphas, y, name, mode: "lines", line: { color, dash, width: 2 } });
    const top = Math.max(...found.losses), low = Math.min(...found.losses);
    const clipped = (values) => values.map((value) => (value > top + (top - low) || value < low - (top - low) ? null : value));
    Plotly.react("surface", [line(found.losses, "loss", COLOURS[0], "solid"), line(clipped(found.line), "taylor-1", COLOURS[1], "dash"), line(clipped(found.parabola), "taylor-2", COLOURS[2], "dashdot")],
      layout(280, { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 60, r: 14, t: 30, b: 44 }, xaxis: { title: { text: "alpha: 1 the network as it is, 0 the removal" } }, yaxis: { title: { text: "calibration loss" } }, shapes: [{ type: "line", x0: 1, x1: 1, yref: "paper", y0: 0, y1: 1, line: { color: look().soft, width: 1, dash: "dot" } }] }), CONFIG);
  }

  function training() {
    const found = run().training;
    $("training-part").hidden = !found;
    if (!found) return;
    const line = (name, k) => ({ x: found.passes, y: found[name], name: `loss on rows ${name === "held out" ? "held out" : "of validation"}`, mode: "lines+markers", line: { color: COLOURS[k], dash: DASHES[k], width: 2 } });
    const lines = ["held out", "validation"].filter((name) => found[name].some((value) => value !== null)).map(line);
    Plotly.react("training", lines, layout(300, { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 60, r: 14, t: 30, b: 44 }, xaxis: { title: { text: "passes over the training rows" } }, yaxis: { title: { text: "mean loss" } } }), CONFIG);
  }

  function card(id, now, before) {
    $(id).replaceChildren(now);
    const small = document.createElement("small");
    small.textContent = `of ${before}`;
    $(id).append(small);
  }

  function readout() {
    const one = run(), place = state.place;
    for (const cost of Object.keys(BUDGETS)) card(`now-${cost}`, shown(cost, one.costs[cost][place]), shown(cost, one.costs[cost][0]));
    card("now-loss", figure(one.loss[place]), figure(one.loss[0]));
    for (const [name, metric] of METRICS) {
      const values = one[`metric-${name}`], told = metric.is_share ? percent : figure;
      $(`card-${name}`).hidden = values[0] === null;
      if (values[0] !== null) card(`now-${name}`, values[place] === null ? "none" : told(values[place]), told(values[0]));
    }
    const known = one.recalls && recallAt(one, place);
    $("card-worst").hidden = !known;
    if (known) {
      const worst = (row) => row.reduce((least, value, k) => (value >= 0 && (least < 0 || value < row[least]) ? k : least), -1);
      const now = known, before = one.recalls.recalls[0];
      const said = (row) => `${(row[worst(row)] / 100).toFixed(2)} %`;
      card("now-worst", said(now), `${said(before)}; class ${worst(now)}, was ${worst(before)}`);
    }
    const cost = one.costs.flash_bytes[place];
    $("what").textContent = place === one.handed
      ? "This is the network in the run folder: cut, and proven to compute what the masked network computed."
      : place === 0 ? "This is the untouched network."
        : one.training ? "Another member of the same family, as its masked network measured before the training. It can be cut from the run that this one was recovered from."
          : `Another member of the same family, as its masked network measured. To cut and prove it: shrinknet cut ${one.folder} --flash ${cost} --out smaller`;
    $("went").textContent = refitAt(one, place) ? `${refitAt(one, place)}.` : `Step ${one.steps[place]} removed ${neuronsOf(one, place)}` + (place ? `; ${scored(one, place)}true rise of the calibration loss ${figure(one.rises[place])}.` : ".");
    const slider = $("slider");
    slider.max = one.steps.length - 1;
    slider.value = place;
    slider.setAttribute("aria-valuetext", `${BUDGETS[state.cost][0]} ${shown(state.cost, one.costs[state.cost][place])}, step ${one.steps[place]} of ${one.steps[one.steps.length - 1]}`);
    const thinned = one.steps.length < one.all_steps ? ` (this page holds ${whole(one.steps.length)} of the run's ${whole(one.all_steps)} steps)` : "";
    $("at").textContent = `${BUDGETS[state.cost][0]}: ${shown(state.cost, one.costs[state.cost][place])}${thinned}`;
    $("run").value = state.run;
    $("cost").value = state.cost;
  }

  function update() {
    readout();
    for (const [name, metric] of METRICS) {
      const ticks = metric.is_share ? { tickformat: ".0%" } : {};
      curve(`metric-${name}`, `metric-${name}`, `bare-${name}`, { yaxis: { title: { text: `${text(name)}, ${run().on} data` }, ...ticks } }, (value) => (value === null ? "none" : metric.is_share ? percent(value) : figure(value)));
    }
    curve("loss", "loss", "bare_loss", { yaxis: { type: runs.every((one) => one.loss.every((value) => value === null || value > 0)) ? "log" : "linear", title: { text: `mean loss, ${run().on} data` }, exponentformat: "power" } }, figure);
    groups();
    order();
    recalls();
    training();
    surface();
  }

  let waiting = 0;
  function soon() { // one drawing for each frame, however fast the slider moves
    readout();
    if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; update(); });
  }

  function fit() {
    const found = /^\s*([0-9][0-9,]*\.?[0-9]*)\s*(b|kb|mb|kib|mib|k|m)?\s*$/i.exec($("budget").value);
    const units = { b: 1, kb: 1e3, mb: 1e6, kib: 1024, mib: 1048576, k: 1e3, m: 1e6 };
    if (!found) { $("fits").textContent = "Write a number, such as 12 KiB or 20k."; return; }
    const budget = parseFloat(found[1].replace(/,/g, "")) * (units[(found[2] || "").toLowerCase()] || 1);
    const values = run().costs[state.cost], place = values.findIndex((value) => value <= budget);
    state.place = place < 0 ? values.length - 1 : place;
    $("fits").textContent = place < 0 ? `None fits; the smallest has ${shown(state.cost, values[values.length - 1])}.` : `Step ${run().steps[place]} is the first that fits.`;
    update();
  }

  function theme(name) {
    const dark = name === "auto" ? matchMedia("(prefers-color-scheme: dark)").matches : name === "dark";
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  }

  let chosen = "auto";
  $("theme").addEventListener("click", () => {
    chosen = { auto: "dark", dark: "light", light: "auto" }[chosen];
    $("theme").textContent = `Theme: ${chosen}`;
    theme(chosen);
    update();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { theme(chosen); update(); });
  addEventListener("beforeprint", () => { theme("light"); update(); });
  addEventListener("afterprint", () => { theme(chosen); update(); });
  $("slider").addEventListener("input", (event) => { state.place = +event.target.value; $("fits").textContent = ""; soon(); });
  $("cost").addEventListener("change", (event) => { state.cost = event.target.value; $("fits").textContent = ""; update(); });
  $("run").addEventListener("change", (event) => { state.run = +event.target.value; state.place = run().handed; $("fits").textContent = ""; update(); });
  $("budget").addEventListener("change", fit);
  $("back").addEventListener("click", () => { state.place = run().handed; $("fits").textContent = ""; update(); });
  theme(chosen);
  update();
  document.documentElement.dataset.ready = "yes";
})();
