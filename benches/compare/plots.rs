//! The plots: one SVG for each quantity, in it one panel by clients, one by pipeline, one by value size.
//!
//! They carry their own light ground, so they are legible on any.

use std::fmt::Write;
use std::path::Path;

use crate::figures::{Figures, Shape};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 340.0;
const PANEL_WIDTH: f64 = 250.0;
const PANEL_TOP: f64 = 86.0;
const PANEL_HEIGHT: f64 = 200.0;
const PANEL_LEFTS: [f64; 3] = [60.0, 375.0, 690.0];

/// Systems in the order of the legend, each with a colour that the colour-blind can tell from the others.
const LINES: [(&str, &str, &str); 6] = [
    ("handover", "Handover", "#d55e00"),
    ("direct", "direct", "#222222"),
    ("haproxy", "HAProxy (TCP)", "#0072b2"),
    ("nutcracker", "nutcracker", "#009e73"),
    ("envoy", "Envoy (redis)", "#cc79a7"),
    ("envoy-tcp", "Envoy (TCP)", "#e69f00"),
];

/// What is shown in one file.
struct Plot {
    file: &'static str,
    title: &'static str,
    is_logarithmic: bool,
    value: fn(&Figures, &Shape, &str) -> Option<f64>,
}

const PLOTS: [Plot; 3] = [
    Plot {
        file: "performance-throughput.svg",
        title: "Throughput, as a share of the direct connection's",
        is_logarithmic: false,
        value: |figures, shape, system| figures.ratio(shape, system, "rate", "direct"),
    },
    Plot {
        file: "performance-latency.svg",
        title: "Latency at full load: median, milliseconds",
        is_logarithmic: true,
        value: |figures, shape, system| figures.value(shape, system, "p50_us").map(|us| us / 1e3),
    },
    Plot {
        file: "performance-cpu.svg",
        title: "CPU time of the proxy for a command, microseconds",
        is_logarithmic: true,
        value: |figures, shape, system| {
            if system == "direct" { None } else { figures.value(shape, system, "proxy_us") }
        },
    },
];

/// A panel: what is along its axis, and which shapes are in it.
struct Panel {
    title: &'static str,
    along: fn(&Shape) -> usize,
    has: fn(&Shape) -> bool,
}

const PANELS: [Panel; 3] = [
    Panel {
        title: "clients (64 B, pipeline 1)",
        along: |shape| shape.clients,
        has: |shape| shape.bytes == 64 && shape.pipeline == 1,
    },
    Panel {
        title: "pipeline (64 B, 50 clients)",
        along: |shape| shape.pipeline,
        has: |shape| shape.bytes == 64 && shape.clients == 50,
    },
    Panel {
        title: "bytes (50 clients, pipeline 16)",
        along: |shape| shape.bytes,
        has: |shape| shape.pipeline == 16 && shape.clients == 50,
    },
];

/// A value of a system at a place of a panel's axis.
struct Point {
    x: usize,
    y: f64,
}

/// Draws what was measured into `folder`; a panel needs at least two places on its axis.
pub fn draw(figures: &Figures, folder: &Path) -> std::io::Result<()> {
    for plot in &PLOTS {
        let panels: Vec<_> = PANELS.iter().map(|panel| lines(figures, plot, panel)).collect();
        if panels.iter().all(|lines| lines.iter().any(|points| points.len() > 1)) {
            std::fs::write(folder.join(plot.file), picture(plot, &panels))?;
            println!("drawn:    {}", folder.join(plot.file).display());
        }
    }
    Ok(())
}

/// For each system its points, from left to right, SET and GET averaged.
fn lines(figures: &Figures, plot: &Plot, panel: &Panel) -> Vec<Vec<Point>> {
    let shapes: Vec<Shape> = figures.shapes("throughput").into_iter().filter(panel.has).collect();
    let mut places: Vec<usize> = shapes.iter().map(panel.along).collect();
    places.sort_unstable();
    places.dedup();
    let point = |system: &str, x: usize| {
        let there = shapes.iter().filter(|shape| (panel.along)(shape) == x);
        let values: Vec<f64> = there.filter_map(|shape| (plot.value)(figures, shape, system)).collect();
        (!values.is_empty()).then(|| Point { x, y: values.iter().sum::<f64>() / values.len() as f64 })
    };
    LINES.iter().map(|(system, ..)| places.iter().filter_map(|&x| point(system, x)).collect()).collect()
}

fn picture(plot: &Plot, panels: &[Vec<Vec<Point>>]) -> String {
    let scale = Scale::of(plot, panels);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#222\">\n<title>{}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\" fill=\"#fff\" stroke=\"#ccc\"/>\n\
         <text x=\"20\" y=\"26\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        plot.title, plot.title
    );
    legend(&mut svg, panels);
    for ((panel, lines), left) in PANELS.iter().zip(panels).zip(PANEL_LEFTS) {
        grid(&mut svg, &scale, left);
        draw_panel(&mut svg, panel, lines, &scale, left);
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String, panels: &[Vec<Vec<Point>>]) {
    let mut left = 20.0;
    for (place, (_, name, colour)) in LINES.iter().enumerate() {
        if panels.iter().any(|lines| !lines[place].is_empty()) {
            put(svg, &format!("<circle cx=\"{left}\" cy=\"48\" r=\"4\" fill=\"{colour}\"/>"));
            put(svg, &format!("<text x=\"{}\" y=\"52\">{name}</text>", left + 9.0));
            left += 30.0 + 7.0 * name.len() as f64;
        }
    }
}

/// From values to heights, the same in all panels of a plot.
struct Scale {
    from: f64,
    to: f64,
    is_logarithmic: bool,
    marks: Vec<f64>,
}

impl Scale {
    fn of(plot: &Plot, panels: &[Vec<Vec<Point>>]) -> Self {
        let values = || panels.iter().flatten().flatten().map(|point| point.y).filter(|&y| y > 0.0);
        let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
        if plot.is_logarithmic {
            let steps = (-3..6).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)));
            let (from, to) = (least / 1.3, most * 1.3);
            let marks = steps.filter(|&mark| mark >= from && mark <= to).collect();
            return Self { from, to, is_logarithmic: true, marks };
        }
        let to = (most * 4.0).ceil() / 4.0;
        let marks = (0..=(to * 4.0) as usize).map(|quarter| quarter as f64 / 4.0).collect();
        Self { from: 0.0, to, is_logarithmic: false, marks }
    }

    fn y(&self, value: f64) -> f64 {
        let share = if self.is_logarithmic {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        PANEL_TOP + PANEL_HEIGHT * (1.0 - share)
    }
}

fn grid(svg: &mut String, scale: &Scale, left: f64) {
    for &mark in &scale.marks {
        let (y, right) = (scale.y(mark), left + PANEL_WIDTH);
        put(svg, &format!("<path d=\"M{left:.1} {y:.1}H{right:.1}\" stroke=\"#ddd\"/>"));
        put(svg, &format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mark}</text>", left - 6.0, y + 4.0));
    }
}

fn draw_panel(svg: &mut String, panel: &Panel, lines: &[Vec<Point>], scale: &Scale, left: f64) {
    let mut places: Vec<usize> = lines.iter().flatten().map(|point| point.x).collect();
    places.sort_unstable();
    places.dedup();
    // Places are even steps: what is between them was not measured.
    let gap = PANEL_WIDTH / places.len() as f64;
    let x_of = |place: usize| {
        let index = places.iter().position(|&there| there == place).unwrap_or(0);
        left + gap * (index as f64 + 0.5)
    };
    for &place in &places {
        let y = PANEL_TOP + PANEL_HEIGHT + 18.0;
        put(svg, &format!("<text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{place}</text>", x_of(place)));
    }
    let (middle, y) = (left + PANEL_WIDTH / 2.0, PANEL_TOP + PANEL_HEIGHT + 38.0);
    put(svg, &format!("<text x=\"{middle:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>", panel.title));
    // Backwards, so that what the legend names first lies on top.
    for (points, (system, _, colour)) in lines.iter().zip(&LINES).rev() {
        let width = if *system == "handover" { 3.0 } else { 1.8 };
        let at: Vec<(f64, f64)> = points.iter().map(|point| (x_of(point.x), scale.y(point.y))).collect();
        let path: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let path = path.join(" ");
        put(svg, &format!("<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"));
        for (x, y) in at {
            put(svg, &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{:.1}\" fill=\"{colour}\"/>", width + 1.2));
        }
    }
}

fn put(svg: &mut String, element: &str) {
    writeln!(svg, "{element}").expect("a string takes everything");
}
