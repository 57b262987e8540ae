// Draws each chart from the JSON beside it. `ast` makes Vega interpret expressions, so that the page needs no eval.
for (const box of document.querySelectorAll(".vega")) {
  const spec = JSON.parse(box.nextElementSibling.textContent);
  const options = {
    renderer: "svg",
    ast: true,
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: box.dataset.name,
    tooltip: { theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light" },
  };
  vegaEmbed(box, spec, options).catch((error) => { box.textContent = "This chart could not be drawn: " + error.message; });
}
