"use strict";
const tip = document.getElementById("tip");
// Marks of charts below `place` say their text when pointed at, focused or touched.
function letMarksSpeak(place) {
  for (const mark of place.querySelectorAll(".mark")) {
    const title = mark.querySelector("title"), text = title.textContent;
    title.remove();  // the browser's own, slower tip
    mark.setAttribute("aria-label", text);
    const show = () => {
      const box = mark.getBoundingClientRect();
      tip.textContent = text;
      tip.hidden = false;
      const left = Math.min(box.right + 8, document.documentElement.clientWidth - tip.offsetWidth - 8);
      tip.style.left = Math.max(8, left) + scrollX + "px";
      tip.style.top = Math.max(8, box.top - tip.offsetHeight - 6) + scrollY + "px";
    };
    for (const event of ["mouseenter", "focus", "click"]) mark.addEventListener(event, show);
    for (const event of ["mouseleave", "blur"]) mark.addEventListener(event, () => { tip.hidden = true; });
  }
}
letMarksSpeak(document);
