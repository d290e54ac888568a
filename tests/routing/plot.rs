//! Line charts as SVG.

use std::{fmt::Write as _, path::PathBuf};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 420.0;
/// Left, top, right, bottom.
const MARGIN: [f64; 4] = [70.0, 40.0, 20.0, 60.0];
/// Told apart also without colours, by their lightness.
const COLOURS: [&str; 4] = ["#c0392b", "#1f4e9c", "#27a567", "#999999"];
/// About how many marks an axis has.
const MARKS: f64 = 8.0;

pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    /// Where the axes end; both begin at 0.
    pub(crate) ends: (f64, f64),
    pub(crate) lines: Vec<(&'a str, Vec<(f64, f64)>)>,
}

impl Chart<'_> {
    /// Writes `target/figures/NAME.svg`.
    pub(crate) fn write(&self, name: &str) {
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let folder = target.parent().unwrap().join("figures");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{name}.svg"));
        std::fs::write(&file, self.svg()).unwrap();
        println!("drawn: {}", file.display());
    }

    fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' \
             font-family='sans-serif' font-size='13'><rect width='100%' height='100%' fill='white'/>\
             <text x='{}' y='22' font-size='15'>{}</text>",
            MARGIN[0], self.title
        );
        self.axes(&mut svg);
        for (at, (name, points)) in self.lines.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let points: Vec<_> = points.iter().map(|point| self.place(*point)).collect();
            let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let (path, right) = (path.join(" "), WIDTH - MARGIN[2]);
            let down = MARGIN[1] + 18.0 * (at + 1) as f64;
            let _ = write!(
                svg,
                "<polyline fill='none' stroke='{colour}' stroke-width='1.6' points='{path}'/>\
                 <text x='{right}' y='{down}' text-anchor='end' fill='{colour}'>{name}</text>"
            );
        }
        svg + "</svg>\n"
    }

    fn axes(&self, svg: &mut String) {
        let ((left, bottom), (right, top)) = (self.place((0.0, 0.0)), self.place(self.ends));
        for mark in marks(self.ends.0) {
            let (x, _) = self.place((mark, 0.0));
            let below = bottom + 18.0;
            let _ = write!(
                svg,
                "<path d='M{x:.1} {bottom}V{top}' stroke='#eee'/>\
                 <text x='{x:.1}' y='{below}' text-anchor='middle'>{mark}</text>"
            );
        }
        for mark in marks(self.ends.1) {
            let (_, y) = self.place((0.0, mark));
            let _ = write!(
                svg,
                "<path d='M{left} {y:.1}H{right}' stroke='#eee'/>\
                 <text x='{}' y='{:.1}' text-anchor='end'>{mark}</text>",
                left - 8.0,
                y + 4.0
            );
        }
        let (middle, foot) = ((left + right) / 2.0, HEIGHT - 16.0);
        let (centre, x, y) = ((top + bottom) / 2.0, self.x, self.y);
        let _ = write!(
            svg,
            "<path d='M{left} {top}V{bottom}H{right}' stroke='black' fill='none'/>\
             <text x='{middle}' y='{foot}' text-anchor='middle'>{x}</text>\
             <text transform='translate(20 {centre}) rotate(-90)' text-anchor='middle'>{y}</text>"
        );
    }

    /// Where a point is drawn; what lies beyond an axis is drawn at its end.
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let (width, height) = (WIDTH - MARGIN[0] - MARGIN[2], HEIGHT - MARGIN[1] - MARGIN[3]);
        let along = |value: f64, end: f64| (value / end).clamp(0.0, 1.0);
        let right = along(x, self.ends.0).mul_add(width, MARGIN[0]);
        (right, (1.0 - along(y, self.ends.1)).mul_add(height, MARGIN[1]))
    }
}

/// Round numbers from 0 to `end`.
fn marks(end: f64) -> Vec<f64> {
    let rough = end / MARKS;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power);
    let step = step.into_iter().find(|step| *step >= rough).unwrap_or(end);
    let mut marks = vec![0.0];
    while let Some(last) = marks.last()
        && last + step <= end * 1.000_001
    {
        // Rounded: the sum of a hundred tenths is not ten.
        marks.push(((last + step) * 1e6).round() / 1e6);
    }
    marks
}

/// The cumulative distribution of `values`, in percent, at no more than 500 points.
pub(crate) fn distribution(values: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let every = (sorted.len() / 500).max(1);
    let share =
        |(rank, value): (usize, &f64)| (*value, 100.0 * (rank + 1) as f64 / sorted.len() as f64);
    sorted.iter().enumerate().step_by(every).map(share).collect()
}
