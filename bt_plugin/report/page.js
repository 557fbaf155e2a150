"use strict";

// The slider selects the step whose pictures are shown.
for (const frames of document.querySelectorAll(".frames")) {
  const all = JSON.parse(frames.querySelector("script").textContent);
  const slider = frames.querySelector("input");
  const images = frames.querySelectorAll("img");
  slider?.addEventListener("input", () => {
    const { step, pictures } = all[slider.value];
    pictures.forEach(({ src, alt }, place) => Object.assign(images[place], { src, alt }));
    frames.querySelector("output").textContent = step;
    slider.setAttribute("aria-valuetext", `step ${step}`);
  });
}

for (const map of document.querySelectorAll(".map")) {
  const names = JSON.parse(map.querySelector("script").textContent);
  const svg = map.querySelector("svg");
  const seen = map.querySelector(".seen");
  const points = [...svg.querySelectorAll("circle")];
  const places = points.map((point) => [point.cx.baseVal.value, point.cy.baseVal.value]);
  const fromLeft = places.map((_, number) => number).sort((one, other) => places[one][0] - places[other][0]);
  const columns = Number(map.dataset.columns);
  const shown = 112;
  let at = -1;

  function show(number) {
    points[at]?.classList.remove("at");
    at = number;
    seen.hidden = number < 0;
    if (number < 0) return;
    points[at].classList.add("at");
    const thumbnail = seen.querySelector(".thumbnail");
    thumbnail.style.backgroundSize = `${columns * shown}px auto`;
    thumbnail.style.backgroundPosition = `${-(number % columns) * shown}px ${-Math.floor(number / columns) * shown}px`;
    seen.querySelector("p").textContent = names[number];
    // Show the image next to its point, on the side with room.
    const scale = svg.clientWidth / 1000;
    const [x, y] = [places[number][0] * scale, places[number][1] * scale];
    seen.style.left = `${x > svg.clientWidth / 2 ? x - 140 : x + 12}px`;
    seen.style.top = `${Math.max(0, Math.min(y - 70, svg.clientHeight - seen.offsetHeight))}px`;
  }

  function nearest(event) {
    const box = svg.getBoundingClientRect();
    const scale = 1000 / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let [best, least] = [-1, (16 * scale) ** 2];
    places.forEach(([left, top], number) => {
      const distance = (left - x) ** 2 + (top - y) ** 2;
      if (distance < least && !points[number].classList.contains("dim")) [best, least] = [number, distance];
    });
    return best;
  }

  svg.addEventListener("pointermove", (event) => show(nearest(event)));
  svg.addEventListener("pointerdown", (event) => show(nearest(event)));
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(-1));
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(-1);
    if (!by) return;
    event.preventDefault();
    show(fromLeft[(fromLeft.indexOf(at) + by + names.length) % names.length]);
  });

  // The first click shows one class alone, the second click all classes again.
  const buttons = [...map.querySelectorAll(".legend button")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const chosen = button.getAttribute("aria-pressed") !== "true";
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(chosen && other === button)));
      points.forEach((point) => point.classList.toggle("dim", chosen && point.dataset.label !== button.dataset.label));
    });
  }
}
