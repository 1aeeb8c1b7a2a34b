//! One chart as an SVG: lines in steps over time, with axes, units and a legend.
//!
//! Everything is reckoned in integers, values in their own base units and places in tenths of a pixel, so a recording gives
//! the same bytes on every machine.

use std::fmt::Write as _;

use super::ticks::{Ticks, label};

/// Tenths of a CSS pixel: 7.5 by 3.75 inches.
pub(super) const WIDTH: i64 = 7200;
pub(super) const HEIGHT: i64 = 3600;
const LEFT: i64 = 720;
const RIGHT: i64 = 7050;
const TOP: i64 = 660;
const BOTTOM: i64 = 3080;
const TICK: i64 = 50;
const TEXT: i64 = 120;
const TITLE: i64 = 140;
const SMALL: i64 = 105;
/// Of a legend's sample of a line.
const SAMPLE: i64 = 280;
/// Of an entry of a legend with all that belongs to it.
const ENTRY: i64 = 1500;
/// Labels of marks nearer to each other than this are left away.
const MARK_APART: i64 = 700;
const TICKS_X: i64 = 10;
const TICKS_Y: i64 = 6;

/// A name with its unit, and how many digits of the base unit stand behind the point of the unit shown.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) name: String,
    pub(super) decimals: u32,
}

/// How a line looks. Lines of one chart differ in dash as well as in colour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) colour: &'static str,
    /// Lengths of dashes and gaps in tenths of a pixel; empty: solid.
    pub(super) dash: &'static str,
    /// In tenths of a pixel.
    pub(super) width: i64,
    /// Whether the area down to zero is tinted.
    pub(super) filled: bool,
}

/// A value that holds from its moment to the next one's; `None`: there is no value.
pub(super) type Step = (i64, Option<i64>);

#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) style: Style,
    /// In the order of time; the last value holds to the end of the chart.
    pub(super) steps: Vec<Step>,
}

/// Stretches of time with a grey ground.
#[derive(Clone, Debug)]
pub(super) struct Shade {
    pub(super) name: &'static str,
    pub(super) stretches: Vec<(i64, i64)>,
}

#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// Where the time axis ends; it begins at 0.
    pub(super) end: i64,
    pub(super) lines: Vec<Line>,
    pub(super) shade: Option<Shade>,
    /// Moments with a name, marked above the chart.
    pub(super) marks: Vec<(i64, String)>,
}

impl Chart {
    pub(super) fn svg(&self) -> String {
        let mut svg = String::new();
        self.draw(&mut svg).expect("a String takes everything written");
        svg
    }

    fn draw(&self, svg: &mut String) -> std::fmt::Result {
        let frame = Frame::of(self);
        writeln!(
            svg,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="'DejaVu Sans', Verdana, sans-serif" font-size="{TEXT}">"#,
            WIDTH / 10,
            HEIGHT / 10,
        )?;
        let title = escape(&self.title);
        writeln!(svg, "<title>{title}</title>")?;
        writeln!(svg, r#"<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#)?;
        writeln!(
            svg,
            r#"<text x="{LEFT}" y="200" font-size="{TITLE}">{title}</text>"#
        )?;
        self.draw_legend(svg)?;
        self.draw_axes(svg, &frame)?;
        for line in &self.lines {
            draw_line(svg, line, &frame)?;
        }
        self.draw_marks(svg, &frame)?;
        writeln!(
            svg,
            r#"<rect x="{LEFT}" y="{TOP}" width="{}" height="{}" fill="none" stroke="black" stroke-width="10"/>"#,
            RIGHT - LEFT,
            BOTTOM - TOP
        )?;
        svg.push_str("</svg>\n");
        Ok(())
    }

    fn draw_legend(&self, svg: &mut String) -> std::fmt::Result {
        let mut x = LEFT;
        let y = 400;
        for Line { name, style, .. } in &self.lines {
            if style.filled {
                let (top, height) = (y - 40, 80);
                let colour = style.colour;
                writeln!(
                    svg,
                    r#"<rect x="{x}" y="{top}" width="{SAMPLE}" height="{height}" fill="{colour}" fill-opacity="0.18"/>"#
                )?;
            }
            writeln!(svg, r#"<path d="M{x} {y}h{SAMPLE}"{}/>"#, stroke(*style))?;
            draw_legend_text(svg, x, y, name)?;
            x += ENTRY;
        }
        if let Some(shade) = self.shade.as_ref().filter(|shade| !shade.stretches.is_empty()) {
            let top = y - 60;
            writeln!(
                svg,
                r#"<rect x="{x}" y="{top}" width="{SAMPLE}" height="120" fill="{GROUND}"/>"#
            )?;
            draw_legend_text(svg, x, y, shade.name)?;
        }
        Ok(())
    }

    fn draw_axes(&self, svg: &mut String, frame: &Frame) -> std::fmt::Result {
        for (from, to) in self.shade.iter().flat_map(|shade| &shade.stretches) {
            let (x, right) = (frame.x(*from), frame.x(*to));
            // Never too short to be seen.
            let width = (right - x).max(10);
            let height = BOTTOM - TOP;
            writeln!(
                svg,
                r#"<rect x="{x}" y="{TOP}" width="{width}" height="{height}" fill="{GROUND}"/>"#
            )?;
        }
        let y_label = BOTTOM + 200;
        for at in &frame.x_ticks.at {
            let (x, text) = (frame.x(*at), label(*at, frame.x_ticks.step, self.x.decimals));
            writeln!(svg, r#"<path d="M{x} {TOP}V{BOTTOM}"{GRID}/>"#)?;
            writeln!(svg, r#"<path d="M{x} {BOTTOM}v{TICK}"{AXIS}/>"#)?;
            writeln!(
                svg,
                r#"<text x="{x}" y="{y_label}" text-anchor="middle">{text}</text>"#
            )?;
        }
        let (x_tick, x_label) = (LEFT - TICK, LEFT - 90);
        for at in &frame.y_ticks.at {
            let (y, text) = (frame.y(*at), label(*at, frame.y_ticks.step, self.y.decimals));
            let base = y + 42;
            writeln!(svg, r#"<path d="M{LEFT} {y}H{RIGHT}"{GRID}/>"#)?;
            writeln!(svg, r#"<path d="M{x_tick} {y}H{LEFT}"{AXIS}/>"#)?;
            writeln!(
                svg,
                r#"<text x="{x_label}" y="{base}" text-anchor="end">{text}</text>"#
            )?;
        }
        let (middle_x, middle_y) = ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2);
        let (name_x, name_y) = (escape(&self.x.name), escape(&self.y.name));
        writeln!(
            svg,
            r#"<text x="{middle_x}" y="{}" text-anchor="middle">{name_x}</text>"#,
            BOTTOM + 420
        )?;
        writeln!(
            svg,
            r#"<text transform="translate(190 {middle_y}) rotate(-90)" text-anchor="middle">{name_y}</text>"#
        )
    }

    fn draw_marks(&self, svg: &mut String, frame: &Frame) -> std::fmt::Result {
        let mut last_label = i64::MIN;
        for (at, name) in &self.marks {
            let x = frame.x(*at);
            let (left, right, top) = (x - 40, x + 40, TOP - 70);
            writeln!(
                svg,
                r#"<path d="M{x} {TOP}V{BOTTOM}" fill="none" stroke="{MARK}" stroke-width="10" stroke-dasharray="20 40"/>"#
            )?;
            writeln!(
                svg,
                r#"<path d="M{left} {top}H{right}L{x} {TOP}z" fill="{MARK}"/>"#
            )?;
            if x.saturating_sub(last_label) >= MARK_APART {
                let (x, y) = (x + 70, TOP - 40);
                // To the left of its mark where there is no room to the right.
                let (x, anchor) = if x + MARK_APART > RIGHT {
                    (x - 140, "end")
                } else {
                    (x, "start")
                };
                let name = escape(name);
                writeln!(
                    svg,
                    r#"<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{SMALL}" fill="{MARK}">{name}</text>"#
                )?;
                last_label = frame.x(*at);
            }
        }
        Ok(())
    }
}

const GRID: &str = r##" stroke="#dddddd" stroke-width="6""##;
const AXIS: &str = r#" stroke="black" stroke-width="10""#;
const GROUND: &str = "#e3e3e3";
const MARK: &str = "#007a5a";

/// Where values are on the paper.
struct Frame {
    end: i64,
    low: i64,
    high: i64,
    x_ticks: Ticks,
    y_ticks: Ticks,
}

impl Frame {
    fn of(chart: &Chart) -> Self {
        let values = || {
            let steps = chart.lines.iter().flat_map(|line| &line.steps);
            steps.filter_map(|(_, value)| *value).chain([0])
        };
        let (low, high) = (values().min().unwrap_or(0), values().max().unwrap_or(0));
        // Room above the highest line, and below the lowest one if that is not the axis itself.
        let room = (high.saturating_sub(low) / 12).max(1);
        let low = if low < 0 { low.saturating_sub(room) } else { 0 };
        let high = high.saturating_add(room);
        let end = chart.end.max(1);
        Self {
            end,
            low,
            high,
            x_ticks: Ticks::within(0, end, TICKS_X),
            y_ticks: Ticks::within(low, high, TICKS_Y),
        }
    }

    fn x(&self, at: i64) -> i64 {
        LEFT + scaled(at.clamp(0, self.end), self.end, RIGHT - LEFT)
    }

    fn y(&self, value: i64) -> i64 {
        BOTTOM
            - scaled(
                value.saturating_sub(self.low),
                self.high.saturating_sub(self.low),
                BOTTOM - TOP,
            )
    }
}

/// `part` of `whole` as the same part of `length`.
fn scaled(part: i64, whole: i64, length: i64) -> i64 {
    let exact = i128::from(part) * i128::from(length) / i128::from(whole);
    i64::try_from(exact).unwrap_or(length)
}

fn stroke(
    Style {
        colour, dash, width, ..
    }: Style,
) -> String {
    let dash = if dash.is_empty() {
        String::new()
    } else {
        format!(r#" stroke-dasharray="{dash}""#)
    };
    format!(r#" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"{dash}"#)
}

/// Writes a legend's entry beside its sample.
fn draw_legend_text(svg: &mut String, x: i64, y: i64, name: &str) -> std::fmt::Result {
    let (text, base) = (x + SAMPLE + 80, y + 42);
    writeln!(svg, r#"<text x="{text}" y="{base}">{}</text>"#, escape(name))
}

fn draw_line(svg: &mut String, line: &Line, frame: &Frame) -> std::fmt::Result {
    for stretch in stretches(line, frame) {
        let Some(((start, top), rest)) = stretch.split_first() else {
            continue;
        };
        let mut path = format!("M{start} {top}");
        for ((x, y), (_, before)) in rest.iter().zip(&stretch) {
            write!(path, "H{x}")?;
            if y != before {
                write!(path, "V{y}")?;
            }
        }
        if line.style.filled {
            let zero = frame.y(0);
            let colour = line.style.colour;
            writeln!(
                svg,
                r#"<path d="{path}V{zero}H{start}z" fill="{colour}" fill-opacity="0.18"/>"#
            )?;
        }
        writeln!(svg, r#"<path d="{path}"{}/>"#, stroke(line.style))?;
    }
    Ok(())
}

/// The places a line goes through, one list for each stretch without a gap.
fn stretches(line: &Line, frame: &Frame) -> Vec<Vec<(i64, i64)>> {
    let mut stretches = Vec::new();
    let mut current: Vec<(i64, i64)> = Vec::new();
    for (at, value) in line.steps.iter().copied().chain([(frame.end, None)]) {
        let x = frame.x(at);
        match (value, current.last()) {
            (Some(value), _) => push(&mut current, (x, frame.y(value))),
            (None, Some((_, y))) => {
                let end = (x, *y);
                current.push(end);
                stretches.push(std::mem::take(&mut current));
            }
            (None, None) => {}
        }
    }
    stretches
}

/// Adds a place unless it could not be seen: the line is there already, or its column of pixels holds more of them than the
/// first, the lowest, the highest and the last.
fn push(places: &mut Vec<(i64, i64)>, place: (i64, i64)) {
    let column = |place: &(i64, i64)| place.0 / 10;
    match places.as_mut_slice() {
        [.., (_, y)] if *y == place.1 => {}
        [.., first, low, high, last] if column(first) == column(&place) => {
            let heights = [low.1, high.1, last.1];
            [low.1, _, high.1] = sorted(heights);
            *last = place;
        }
        _ => places.push(place),
    }
}

fn sorted<const N: usize>(mut values: [i64; N]) -> [i64; N] {
    values.sort_unstable();
    values
}

fn escape(text: &str) -> String {
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(steps: Vec<Step>) -> Chart {
        let style = Style {
            colour: "black",
            dash: "",
            width: 20,
            filled: false,
        };
        Chart {
            title: "a < b".to_owned(),
            x: Axis {
                name: "time (s)".to_owned(),
                decimals: 0,
            },
            y: Axis {
                name: "tasks".to_owned(),
                decimals: 0,
            },
            end: 100,
            lines: vec![Line {
                name: "running",
                style,
                steps,
            }],
            shade: None,
            marks: Vec::new(),
        }
    }

    fn places(steps: Vec<Step>) -> Vec<Vec<(i64, i64)>> {
        let chart = chart(steps);
        stretches(&chart.lines[0], &Frame::of(&chart))
    }

    #[test]
    fn a_value_holds_until_the_next_one_and_the_last_to_the_end() {
        let svg = chart(vec![(0, Some(0)), (50, Some(12))]).svg();
        assert!(svg.contains(r#"d="M720 3080H3885V847H7050""#), "{svg}");
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b"));
    }

    #[test]
    fn a_line_stops_where_there_is_no_value() {
        let places = places(vec![
            (0, Some(1)),
            (10, None),
            (20, None),
            (30, Some(1)),
            (40, None),
        ]);
        let ends: Vec<(i64, i64)> = places
            .iter()
            .map(|stretch| (stretch[0].0, stretch[stretch.len() - 1].0))
            .collect();
        assert_eq!(ends, [(720, 1353), (2619, 3252)]);
    }

    #[test]
    fn what_cannot_be_seen_is_not_drawn_and_no_peak_is_lost() {
        let flat = places((0..1000).map(|number| (number / 10, Some(5))).collect());
        assert!(flat[0].len() <= 4, "{flat:?}");
        let peaked = places((0..1000).map(|number| (50, Some(number * 7 % 101))).collect());
        assert!(peaked[0].len() <= 5, "{peaked:?}");
        let heights = || peaked[0].iter().map(|(_, y)| *y);
        assert_eq!(
            (heights().min(), heights().max()),
            (Some(840), Some(BOTTOM)),
            "{peaked:?}"
        );
    }

    #[test]
    fn nothing_at_all_is_drawn_as_an_empty_chart() {
        assert!(chart(Vec::new()).svg().ends_with("</svg>\n"));
    }
}
