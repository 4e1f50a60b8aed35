"use strict";
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const SCALE = 65535, STEPS = data.steps, SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const share = (value) => value.toFixed(3);
  const count = (value) => (Math.round(value * 10) / 10).toLocaleString("en");

  function decode(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Float64Array.from({ length: bytes.length / 2 }, (_, index) => view.getUint16(2 * index, true) / SCALE);
  }

  function decodeFloats(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Float64Array.from({ length: bytes.length / 4 }, (_, index) => view.getFloat32(4 * index, true));
  }

  function decodeLabels(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  }

  function element(name, attributes = {}, text = "") {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  }

  // Drawing into a figure: data coordinates to those of its SVG.
  function plot(name) {
    const svg = document.querySelector(`#${name} svg`), frame = data.frames[name];
    if (!svg || !frame) return null;
    const place = (x, y) => [
      frame.left + frame.width * (x - frame.x[0]) / (frame.x[1] - frame.x[0]),
      frame.top + frame.height * (frame.y[1] - y) / (frame.y[1] - frame.y[0]),
    ];
    const add = (kind, attributes) => {
      const made = document.createElementNS(SVG, kind);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      svg.append(made);
      return made;
    };
    return { svg, place, add, frame };
  }

  function marker(name) {
    const target = plot(name);
    if (!target) return () => {};
    const circle = target.add("circle", { r: 4.5, class: "mark" });
    return (x, y) => {
      const isInside = Number.isFinite(x + y) && x >= target.frame.x[0] && x <= target.frame.x[1];
      circle.style.display = isInside ? "" : "none";
      if (!isInside) return;
      const [left, top] = target.place(x, Math.max(y, target.frame.y[0]));
      circle.setAttribute("cx", left);
      circle.setAttribute("cy", top);
    };
  }

  // Tables: a button in each head sorts, first the largest number or the first letter.
  function sortable(table) {
    const heads = all("thead th", table), body = table.tBodies[0];
    const key = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value === "" ? null : Number(cell.dataset.value);
    };
    heads.forEach((head, column) => {
      const button = element("button", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const rows = all("tr", body), isNumber = typeof key(rows[0], column) !== "string";
        const first = isNumber ? "descending" : "ascending", second = isNumber ? "ascending" : "descending";
        const order = head.getAttribute("aria-sort") === first ? second : first;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        rows.sort((one, other) => {
          const [left, right] = [key(one, column), key(other, column)];
          if (left === null || right === null) return (left === null) - (right === null);
          return sign * (typeof left === "string" ? left.localeCompare(right) : left - right);
        });
        body.append(...rows);
      });
    });
  }

  // A list in place of several blocks: one of them is shown.
  function picker(select, blocks) {
    const show = () => blocks.forEach((block) => { block.hidden = block.dataset.group !== select.value; });
    select.addEventListener("change", show);
    show();
  }

  function fill(select, options) {
    select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  }

  function thresholds() {
    const tool = byId("explorer"), names = Object.keys(data.thresholds);
    if (!tool || !names.length) return;
    tool.hidden = false;
    const model = byId("explorer-model"), slider = byId("explorer-threshold"), marks = byId("explorer-marks");
    const prevalence = byId("explorer-prevalence"), { patches, positives } = data.counts, negatives = patches - positives;
    const setters = { roc: marker("roc"), precision_recall: marker("precision_recall"), decision_curve: marker("decision_curve") };
    fill(model, data.classifiers.map((one) => [one.name, one.title]));
    prevalence.value = (100 * positives / patches).toFixed(1);
    let curves = null, isOwnShare = false;

    const show = ({ threshold, sensitivity, specificity, calibrated, benefit }, mark) => {
      const found = positives * sensitivity, spared = negatives * specificity;
      const alarms = negatives - spared, missed = positives - found;
      const given = prevalence.value === "" ? NaN : Number(prevalence.value) / 100;
      const rate = isOwnShare ? given : positives / patches, isShare = rate >= 0 && rate <= 1;
      const positive = rate * sensitivity, wrong = (1 - rate) * (1 - specificity), calledPositive = found + alarms;
      const values = {
        value: share(threshold), sensitivity: share(sensitivity), specificity: share(specificity),
        accuracy: share(mark ? mark.accuracy : (found + spared) / patches),
        balanced: share((sensitivity + specificity) / 2),
        ppv: !isShare ? "share 0 to 100 %" : positive + wrong > 0 ? share(positive / (positive + wrong)) : "none called",
        npv: !isShare ? "share 0 to 100 %" : (1 - rate) * specificity + rate * (1 - sensitivity) > 0 ? share((1 - rate) * specificity / ((1 - rate) * specificity + rate * (1 - sensitivity))) : "none spared",
        benefit: Number.isFinite(benefit) ? benefit.toFixed(3) : "not defined",
        tp: count(found), fn: count(missed), fp: count(alarms), tn: count(spared),
        "tp-share": `${Math.round(100 * sensitivity)} %`, "fn-share": `${Math.round(100 * (1 - sensitivity))} %`,
        "fp-share": `${Math.round(100 * (1 - specificity))} %`, "tn-share": `${Math.round(100 * specificity)} %`,
        rule: mark ? `${mark.title}, chosen on validation patients for each training: a reported result.` : "Exploration; the reported results use the marks.",
      };
      for (const [name, text] of Object.entries(values)) byId(`explorer-${name}`).textContent = text;
      setters.roc(1 - specificity, sensitivity);
      setters.precision_recall(sensitivity, calledPositive > 0 ? found / calledPositive : NaN);
      setters.decision_curve(calibrated, benefit ?? NaN);
      all("button", marks).forEach((button) => button.setAttribute("aria-pressed", String(Boolean(mark) && button.value === mark.rule)));
    };
    let redraw = () => {};
    const explore = () => {
      redraw = () => {
        const step = Number(slider.value);
        const mark = data.thresholds[model.value].marks.find((one) => Math.round(one.threshold * STEPS) === step);
        const atStep = Object.entries(curves).map(([name, values]) => [name, values[step]]);
        show(mark || { threshold: step / STEPS, ...Object.fromEntries(atStep) }, mark);
      };
      redraw();
    };
    const choose = () => {
      const chosen = data.thresholds[model.value];
      curves = Object.fromEntries(["sensitivity", "specificity", "calibrated", "benefit"].map((name) => [name, decodeFloats(chosen[name])]));
      const useMark = (mark) => {
        slider.value = Math.round(mark.threshold * STEPS);
        redraw = () => show(mark, mark);
        redraw();
      };
      marks.replaceChildren(...chosen.marks.map((mark) => {
        const button = element("button", { type: "button", value: mark.rule, "aria-pressed": "false" }, `${mark.title}: ${mark.threshold.toFixed(2)}`);
        button.addEventListener("click", () => useMark(mark));
        return button;
      }));
      useMark(chosen.marks[0]);
    };
    slider.addEventListener("input", explore);
    prevalence.addEventListener("input", () => { isOwnShare = true; redraw(); });
    model.addEventListener("change", choose);
    choose();
  }

  const GRAY = [228, 228, 228], NONE = [219, 219, 219];
  const mix = (from, to, part) => from.map((value, index) => Math.round(value + (to[index] - value) * part));
  const diverging = ([first, second], value, threshold) => value < threshold
    ? mix(first, GRAY, value / Math.max(threshold, 1e-6)) : mix(GRAY, second, (value - threshold) / Math.max(1 - threshold, 1e-6));
  const parseColor = (text) => [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));

  function slideMaps() {
    const tool = byId("maps");
    if (!tool || !data.slides.length) return;
    tool.hidden = false;
    const canvas = byId("maps-canvas"), context = canvas.getContext("2d"), told = byId("maps-told");
    const slideList = byId("maps-slide"), modelList = byId("maps-model"), onlyErrors = byId("maps-errors"), outline = byId("maps-outline");
    const isBinary = data.classes.length === 2, palette = data.classColors.map(parseColor);
    fill(slideList, data.slides.map((slide, index) => [index, `${slide.role} patient ${slide.patient}, ${slide.labels.length.toLocaleString("en")} patches`]));
    const shown = data.classifiers.filter((one) => one.name in data.slides[0].values);
    fill(modelList, [["annotated", "Annotation"], ...shown.map((one) => [one.name, one.title])]);
    modelList.value = shown.at(-1).name;
    let cells = new Map(), side = 8, slide = null, values = null, calls = null, cursor = null;

    const color = (index) => {
      const label = slide.labels[index];
      if (!values) return palette[label];
      if (onlyErrors.checked && calls[index] === label) return NONE;
      if (onlyErrors.checked) return palette[label];
      return isBinary ? diverging(palette, values[index], slide.thresholds[modelList.value]) : palette[calls[index]];
    };
    const line = (x0, y0, x1, y1) => { context.moveTo(x0 * side, y0 * side); context.lineTo(x1 * side, y1 * side); };
    const outlines = (differs, style, width) => {
      context.beginPath();
      for (const [place, index] of cells) {
        const [x, y] = place.split(",").map(Number);
        for (const [dx, dy, edge] of [[1, 0, [x + 1, y, x + 1, y + 1]], [0, 1, [x, y + 1, x + 1, y + 1]], [-1, 0, [x, y, x, y + 1]], [0, -1, [x, y, x + 1, y]]]) {
          if (differs(index, cells.get(`${x + dx},${y + dy}`))) line(...edge);
        }
      }
      context.strokeStyle = style;
      context.lineWidth = width;
      context.stroke();
    };
    const draw = () => {
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      for (const [place, index] of cells) {
        const [x, y] = place.split(",").map(Number);
        context.fillStyle = `rgb(${color(index).join(",")})`;
        context.fillRect(x * side, y * side, side, side);
      }
      if (outline.checked) {
        outlines((_, other) => other === undefined, "#222", 1);
        outlines((index, other) => other !== undefined && slide.labels[index] > slide.labels[other], "#000", 1.6);
      }
      if (slide.micronsPerCell) {
        const millimetres = [5, 2, 1, 0.5, 0.2].find((one) => one * 1000 / slide.micronsPerCell < slide.size[0] / 2) || 0.2;
        const width = millimetres * 1000 / slide.micronsPerCell * side;
        context.fillStyle = "#111";
        context.fillRect(6, canvas.height - 9, width, 3);
        context.font = "12px sans-serif";
        context.fillText(`${millimetres} mm`, 6, canvas.height - 13);
      }
      if (cursor) {
        context.strokeStyle = "#111";
        context.lineWidth = 2;
        context.strokeRect(cursor[0] * side, cursor[1] * side, side, side);
      }
    };
    const tell = () => {
      const index = cursor ? cells.get(cursor.join(",")) : undefined;
      if (index === undefined) { told.textContent = cursor ? "No patch here." : "Point at a patch, or move with the arrow keys."; return; }
      const parts = [`x ${slide.x[index]}, y ${slide.y[index]}: annotated ${data.classes[slide.labels[index]]}`];
      if (values) parts.push(`probability of ${isBinary ? data.noun : "its label"} ${values[index].toFixed(3)}`);
      if (values) parts.push(`called ${data.classes[calls[index]]}`);
      told.textContent = parts.join(", ");
    };
    const load = () => {
      slide = data.slides[Number(slideList.value)];
      const isAnnotation = modelList.value === "annotated";
      values = isAnnotation ? null : decode(slide.values[modelList.value]);
      calls = isAnnotation ? null : decodeLabels(slide.called[modelList.value]);
      onlyErrors.disabled = isAnnotation;
      side = Math.max(3, Math.min(24, Math.floor(900 / Math.max(...slide.size))));
      canvas.width = slide.size[0] * side;
      canvas.height = slide.size[1] * side + 24;
      cells = new Map(slide.labels.map((_, index) => [`${slide.cells[2 * index]},${slide.cells[2 * index + 1]}`, index]));
      const wrong = values ? slide.labels.filter((label, index) => calls[index] !== label).length : 0;
      byId("maps-summary").textContent = values ? `${wrong.toLocaleString("en")} of ${slide.labels.length.toLocaleString("en")} patches are called wrongly.` : "";
      draw();
      tell();
    };
    const point = (event) => {
      const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width / side;
      cursor = [Math.floor((event.clientX - box.left) * scale), Math.floor((event.clientY - box.top) * scale)];
      draw();
      tell();
    };
    for (const kind of ["pointermove", "pointerdown"]) canvas.addEventListener(kind, point);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const from = cursor || [slide.cells[0] - step[0], slide.cells[1] - step[1]];
      cursor = [0, 1].map((axis) => Math.min(Math.max(from[axis] + step[axis], 0), slide.size[axis] - 1));
      draw();
      tell();
    });
    for (const control of [slideList, modelList]) control.addEventListener("change", () => { cursor = null; load(); });
    for (const control of [onlyErrors, outline]) control.addEventListener("change", draw);
    load();
  }

  function patients() {
    const list = byId("patient-picker");
    if (!list || !data.patients.length) return;
    byId("patient-tool").hidden = false;
    const names = data.patients.map((one) => one.patient), known = new Map(data.patients.map((one) => [one.patient, one]));
    fill(list, [["", "All test patients"], ...names.map((name) => [name, name])]);
    const order = [...names].sort((one, other) => (one < other ? -1 : one > other ? 1 : 0)), rows = all("#largest-errors-table tbody tr");
    const cells = all("#per_patient [id^='per_patient-QuadMesh'] path"), width = names.length, proposed = data.classifiers[0];
    const collection = "#patient_shares [id^='patient_shares-PathCollection']";
    const dots = all(`${collection} > path, ${collection} use`);
    const choose = (name) => {
      list.value = name;
      dots.forEach((dot, index) => dot.classList.toggle("is-chosen", order[index % order.length] === name));
      cells.forEach((cell, index) => cell.classList.toggle("is-chosen", names[index % width] === name));
      let shown = 0;
      rows.forEach((row) => {
        const isHidden = Boolean(name) && row.cells[1].textContent !== name;
        row.classList.toggle("is-muted", isHidden);
        shown += !isHidden;
      });
      const chosen = known.get(name);
      byId("patient-told").textContent = !chosen ? "" : [
        `Patient ${name}: ${chosen.patches} patches, ${Object.entries(chosen.by_class).map(([text, number]) => `${number} ${text}`).join(", ")}`,
        `${proposed.title} calls ${Math.round(100 * chosen.accuracy[proposed.name])} % rightly`,
        `${shown} of the ${rows.length} largest errors are listed below.`,
      ].join("; ");
    };
    const clickable = (shape, name) => {
      const title = document.createElementNS(SVG, "title");
      title.textContent = name;
      shape.append(title);
      shape.style.cursor = "pointer";
      shape.addEventListener("click", () => choose(list.value === name ? "" : name));
    };
    cells.forEach((cell, index) => clickable(cell, names[index % width]));
    dots.forEach((dot, index) => clickable(dot, order[index % order.length]));
    list.addEventListener("change", () => choose(list.value));
  }

  function gallery() {
    const tool = byId("gallery"), patches = all("#gan_samples [id^='gan_samples-sample-']");
    if (!tool || !patches.length) return;
    tool.hidden = false;
    const boxes = all("input", tool);
    const show = () => {
      const hidden = boxes.filter((box) => !box.checked).map((box) => box.value);
      patches.forEach((patch) => {
        const [, , kind, label] = patch.id.split("-");  // gan_samples-sample-<kind>-<label>-<index>
        patch.style.visibility = hidden.includes(kind) || hidden.includes(label) ? "hidden" : "";
      });
    };
    boxes.forEach((box) => box.addEventListener("change", show));
  }

  // Tables in the page, compressed; read at the first download.
  let files = null;
  async function readFiles() {
    if (!files) {
      const bytes = Uint8Array.from(atob(byId("page-files").textContent.trim()), (letter) => letter.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      files = JSON.parse(await new Response(stream).text());
    }
    return files;
  }
  async function download(name) {
    const text = (await readFiles())[name], kind = name.endsWith(".json") ? "application/json" : "text/csv";
    const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: kind })), download: `${data.experiment}_${name}` });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  // The fields of each line; quoted ones may hold commas, quotes and line breaks.
  function parseCsv(text) {
    const rows = [[]];
    let field = "", isQuoted = false;
    for (let at = 0; at < text.length; at++) {
      const letter = text[at];
      if (isQuoted && letter === '"' && text[at + 1] === '"') { field += '"'; at++; }
      else if (letter === '"') isQuoted = !isQuoted;
      else if (!isQuoted && letter === ",") { rows.at(-1).push(field); field = ""; }
      else if (!isQuoted && letter === "\n") { rows.at(-1).push(field); field = ""; rows.push([]); }
      else if (isQuoted || letter !== "\r") field += letter;
    }
    rows.at(-1).push(field);
    return rows.filter((row) => row.length > 1);
  }

  // An id and a number, split at the last separator; a number after a semicolon or a tab may have a decimal comma.
  function parseLine(line) {
    const match = line.match(/^(.*)[;\t]\s*(-?[\d.,eE+-]+)\s*$/) || line.match(/^(.*),\s*(-?[\d.eE+-]+)\s*$/);
    if (!match) return null;
    const value = Number(match[2].replace(",", "."));
    return value >= 0 && value <= 1 ? [match[1].trim().replace(/^"|"$/g, "").replaceAll('""', '"'), value] : null;
  }

  // One's own probabilities beside ours: they stay in the browser.
  function rocCurve(labels, scores) {
    const order = scores.map((_, index) => index).sort((one, other) => scores[other] - scores[one]);
    const positives = labels.reduce((sum, label) => sum + label, 0), negatives = labels.length - positives;
    const points = [[0, 0]];
    let found = 0, alarms = 0, area = 0;
    for (let at = 0; at < order.length;) {
      const score = scores[order[at]], [before, falseBefore] = [found, alarms];
      while (at < order.length && scores[order[at]] === score) { labels[order[at]] ? found++ : alarms++; at++; }
      area += (alarms - falseBefore) * (before + found) / 2;
      points.push([alarms / negatives, found / positives]);
    }
    return { points, area: area / positives / negatives };
  }
  function ownCurve() {
    const button = byId("own-draw"), target = plot("roc");
    if (!button || !target || data.classes.length !== 2) return;
    byId("own").hidden = false;
    let drawn = null;
    button.addEventListener("click", async () => {
      const told = byId("own-told");
      const rows = parseCsv((await readFiles())["patches.csv"]).slice(1);
      const labels = new Map(rows.map((cells) => [cells[0], Number(cells[2])]));
      const lines = byId("own-text").value.split(/\r?\n/).filter((line) => line.trim());
      if (lines.length && !/\d\s*$/.test(lines[0])) lines.shift();  // a head
      const known = new Map(lines.map(parseLine).filter((pair) => pair && labels.has(pair[0])));
      const truth = [...known.keys()].map((id) => labels.get(id)), scores = [...known.values()];
      if (drawn) drawn.remove();
      if (new Set(truth).size < 2) {
        told.textContent = `Nothing was drawn: ${known.size} of ${lines.length} lines have the id of a test patch and a probability from 0 to 1, and a curve needs both classes. Write id,probability with the ids of patches.csv.`;
        return;
      }
      const { points, area } = rocCurve(truth, scores);
      drawn = target.add("polyline", { points: points.map(([x, y]) => target.place(x, y).join(",")).join(" "), fill: "none", stroke: "var(--ink)", "stroke-width": 1.6, "stroke-dasharray": "5 3", id: "own-curve" });
      const unknown = lines.length - known.size;
      told.textContent = `Your ROC AUC is ${share(area)} on ${known.size.toLocaleString("en")} of ${labels.size.toLocaleString("en")} test patches; dashed in the ROC curves. ${unknown ? `${unknown} lines were left out: an unknown id, one that comes twice, or no probability from 0 to 1.` : ""}`;
    });
  }

  function contents() {
    const links = all("nav.contents a"), sections = links.map((link) => document.querySelector(link.getAttribute("href")));
    const mark = (index) => links.forEach((link, at) => at === index ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
    const update = () => {
      const past = sections.filter((section) => section.getBoundingClientRect().top < innerHeight / 3);
      mark(Math.max(past.length - 1, 0));
    };
    addEventListener("scroll", update, { passive: true });
    update();
    const open = () => {
      const target = location.hash && document.getElementById(location.hash.slice(1));
      const group = target && target.closest(".group");
      if (group && group.hidden) {
        byId("group-picker").value = group.dataset.group;
        byId("group-picker").dispatchEvent(new Event("change"));
      }
      for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
      if (target) target.scrollIntoView();
    };
    addEventListener("hashchange", open);
    open();
  }

  all("table.sortable").forEach(sortable);
  const groups = all(".group");
  if (groups.length > 1) {
    byId("group-tool").hidden = false;
    all(".group > h3").forEach((title) => { title.hidden = true; });
    picker(byId("group-picker"), groups);
  }
  thresholds();
  slideMaps();
  patients();
  ownCurve();
  gallery();
  contents();
  all("button[data-file]").forEach((button) => { button.hidden = false; button.addEventListener("click", () => download(button.dataset.file)); });
  const fileList = byId("file-picker");
  byId("file-tool").hidden = false;
  byId("file-download").addEventListener("click", () => download(fileList.value));
})();
