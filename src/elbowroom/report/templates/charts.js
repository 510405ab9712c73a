// Draws the charts in the colours of the page's theme, and again when the theme changes.
(() => {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("screen and (prefers-color-scheme: dark)");
  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  const axis = (given) => ({
    ...given,
    title: {...given.title, standoff: 12, font: {size: 13, color: colour("muted")}},
    gridcolor: colour("line"),
    linecolor: colour("muted"),
    zeroline: false,
    showline: true,
    ticks: "outside",
    tickcolor: colour("line"),
    automargin: true,
    fixedrange: true,
  });

  // meta names the colour of a trace, or that and the colour it is filled with.
  const traces = (chart) => chart.data.map((trace) => {
    const [ink, band = "band"] = [trace.meta].flat();
    return {
      ...trace,
      line: {...trace.line, color: colour(ink)},
      marker: {...trace.marker, color: colour(ink)},
      fillcolor: colour(band),
    };
  });

  const layout = (given) => ({
    ...given,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: {color: colour("ink"), family: getComputedStyle(document.body).fontFamily, size: 13},
    hoverlabel: {bgcolor: colour("card"), bordercolor: colour("line"), font: {color: colour("ink")}},
    legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom"},
    margin: {l: 8, r: 12, t: 8, b: 8},
    dragmode: false,
    xaxis: axis(given.xaxis),
    yaxis: axis(given.yaxis),
    shapes: (given.shapes || []).map((shape) => ({
      ...shape,
      line: {...shape.line, color: colour("muted")},
    })),
  });

  const draw = () => {
    for (const [id, chart] of Object.entries(charts)) {
      Plotly.react(id, traces(chart), layout(chart.layout), {
        displayModeBar: false,
        responsive: true,
      });
    }
  };
  dark.addEventListener("change", draw);
  draw();

  // Paper is narrower than most windows, and no resize event says so.
  const size = (given) => Object.keys(charts).forEach((id) => Plotly.relayout(id, given));
  addEventListener("beforeprint", () => size({width: 640, height: 340}));
  addEventListener("afterprint", () => size({width: null, height: null, autosize: true}));
})();
