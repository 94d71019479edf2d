//! A row of small bars. Waits span from a tenth of a millisecond to seconds, so the height is logarithmic.

use std::time::Duration;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The lowest bar.
const LOWEST: Duration = Duration::from_micros(100);

/// Each bar more stands for so many times as much: eight bars reach half a second.
const STEP: f64 = 3.4;

/// The last `width` values; a space where there was none, and before the first.
pub(super) fn sparkline(values: &[Option<Duration>], width: usize) -> String {
    let shown = &values[values.len().saturating_sub(width)..];
    let missing = width - shown.len();
    std::iter::repeat_n(' ', missing).chain(shown.iter().map(|value| value.map_or(' ', bar))).collect()
}

fn bar(value: Duration) -> char {
    let times = value.as_secs_f64() / LOWEST.as_secs_f64();
    let steps = if times <= 1.0 { 0.0 } else { times.log(STEP).floor() };
    BARS[(steps as usize).min(BARS.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_with_the_logarithm() {
        let values = [0, 100, 339, 341, 1_200, 4_000, 14_000, 46_000, 160_000, 600_000, 9_000_000];
        let values: Vec<_> = values.map(|micros| Some(Duration::from_micros(micros))).into();
        assert_eq!(sparkline(&values, 11), "▁▁▁▂▃▄▅▆▇██");
    }

    #[test]
    fn it_is_always_as_wide_as_asked_and_shows_the_end() {
        let low = Some(Duration::ZERO);
        let high = Some(Duration::from_secs(9));
        assert_eq!(sparkline(&[low, None, high], 5), "  ▁ █");
        assert_eq!(sparkline(&[low, low, None, high], 2), " █");
        assert_eq!(sparkline(&[], 3), "   ");
    }
}
