//! A plot with both axes logarithmic, as the text of an SVG file.
//!
//! Not here: what is measured. No library: what one with its fonts and back ends would bring is a few dozen lines here.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 520.0;
/// Left, top, right, bottom.
const MARGIN: [f64; 4] = [80.0, 50.0, 220.0, 60.0];
const COLOURS: [&str; 4] = ["#1b6ca8", "#c0641c", "#2d8a4e", "#8a2d6b"];

/// One line of the plot.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    /// Which colour; lines of one colour belong together.
    pub colour: usize,
    pub dashed: bool,
    /// Both greater than 0, by ascending x.
    pub points: Vec<(f64, f64)>,
}

/// What stands beside an axis, and how its marks are written.
pub struct Axis<'a> {
    pub title: &'a str,
    /// Where the marks are; the first and the last bound the axis.
    pub marks: Vec<(f64, String)>,
}

/// The SVG.
pub fn plot(title: &str, x: &Axis<'_>, y: &Axis<'_>, lines: &[Line]) -> String {
    let [left, top, right, bottom] = MARGIN;
    let (x_from, x_to, y_from, y_to) = (left, WIDTH - right, HEIGHT - bottom, top);
    let at_x = |value: f64| place(value, x, x_from, x_to);
    let at_y = |value: f64| place(value, y, y_from, y_to);
    let mut out = String::new();
    // Writing into a string does not fail.
    let _ = writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13" fill="#222">"##
    );
    let _ = writeln!(out, r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>"##);
    let _ = writeln!(out, r#"<text x="{x_from}" y="28" font-size="16">{}</text>"#, escaped(title));
    for (value, mark) in &x.marks {
        let at = at_x(*value);
        let _ = writeln!(out, r##"<path d="M{at:.1} {y_from:.1}V{y_to:.1}" stroke="#ddd"/>"##);
        let _ = writeln!(out, r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#, y_from + 18.0, escaped(mark));
    }
    for (value, mark) in &y.marks {
        let at = at_y(*value);
        let _ = writeln!(out, r##"<path d="M{x_from:.1} {at:.1}H{x_to:.1}" stroke="#ddd"/>"##);
        let _ = writeln!(out, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#, x_from - 8.0, at + 4.0, escaped(mark));
    }
    let middle = (x_from + x_to) / 2.0;
    let _ = writeln!(out, r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle">{}</text>"#, HEIGHT - 16.0, escaped(x.title));
    let middle = (y_from + y_to) / 2.0;
    let _ = writeln!(
        out,
        r#"<text x="20" y="{middle:.1}" text-anchor="middle" transform="rotate(-90 20 {middle:.1})">{}</text>"#,
        escaped(y.title)
    );
    for (number, line) in lines.iter().enumerate() {
        let colour = COLOURS[line.colour % COLOURS.len()];
        let dash = if line.dashed { r#" stroke-dasharray="6 4""# } else { "" };
        let points: Vec<String> = line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y))).collect();
        let _ = writeln!(out, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>"#, points.join(" "));
        let (from, at) = (x_to + 16.0, y_to + 12.0 + 22.0 * number as f64);
        let _ = writeln!(out, r#"<path d="M{from:.1} {at:.1}h34" stroke="{colour}" stroke-width="2"{dash}/>"#);
        let _ = writeln!(out, r#"<text x="{:.1}" y="{:.1}">{}</text>"#, from + 42.0, at + 4.0, escaped(&line.name));
    }
    out.push_str("</svg>\n");
    out
}

fn place(value: f64, axis: &Axis<'_>, from: f64, to: f64) -> f64 {
    let bound = |mark: Option<&(f64, String)>| mark.map_or(1.0, |(value, _)| *value).ln();
    let (low, high) = (bound(axis.marks.first()), bound(axis.marks.last()));
    from + (to - from) * ((value.ln() - low) / (high - low)).clamp(0.0, 1.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_stand_at_even_distances_and_every_line_is_drawn_and_named() {
        let marks = |values: [f64; 3]| values.map(|value| (value, value.to_string())).to_vec();
        let (x, y) = (Axis { title: "x", marks: marks([1.0, 10.0, 100.0]) }, Axis { title: "y < z", marks: marks([1.0, 10.0, 100.0]) });
        let at = |value| place(value, &x, 0.0, 100.0);
        assert_eq!((at(1.0), at(10.0).round(), at(100.0)), (0.0, 50.0, 100.0));
        assert_eq!(at(1e9), 100.0, "what is outside stands at the edge");
        let line = |name: &str, dashed| Line { name: name.into(), colour: 0, dashed, points: vec![(1.0, 1.0), (100.0, 100.0)] };
        let svg = plot("a & b", &x, &y, &[line("one", false), line("two", true)]);
        assert_eq!((svg.matches("<polyline").count(), svg.matches("dasharray").count()), (2, 2));
        assert!(svg.contains("a &amp; b") && svg.contains("y &lt; z") && svg.contains(">two<"));
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }
}
