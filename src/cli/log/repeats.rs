//! Decides which lines of the log are left out because they repeat earlier ones. PURE.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// The same text is written once in this time.
const WINDOW: Duration = Duration::from_secs(60);

/// Most lines of one place in the program in that time, with any text. So a peer cannot fill the
/// disk.
const MAX_OF_PLACE: u32 = 30;

/// Texts remembered. Beyond it only the bound of each place holds.
const MAX_TEXTS: usize = 1024;

/// The recently written lines.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// By the text's hash: when it was written, and how often it was left out since.
    texts: HashMap<u64, (Instant, u64)>,
    places: HashMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    since: Instant,
    written: u32,
    left_out: u64,
}

impl Repeats {
    /// Whether a line of `place` in the program with this `text`, both as hashes, is written; if so, how
    /// many like it were left out before.
    pub(super) fn write(&mut self, now: Instant, place: u64, text: u64) -> Option<u64> {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= WINDOW;
        if let Some((_, left_out)) = self.texts.get_mut(&text).filter(|(since, _)| !is_over(*since))
        {
            *left_out += 1;
            return None;
        }
        let place =
            self.places.entry(place).or_insert(Place { since: now, written: 0, left_out: 0 });
        if is_over(place.since) {
            (place.since, place.written) = (now, 0);
        }
        if place.written >= MAX_OF_PLACE {
            place.left_out += 1;
            return None;
        }
        place.written += 1;
        let of_place = std::mem::take(&mut place.left_out);
        let of_text = self.texts.remove(&text).map_or(0, |(_, left_out)| left_out);
        if self.texts.len() >= MAX_TEXTS {
            self.texts.retain(|_, (since, _)| !is_over(*since));
        }
        if self.texts.len() < MAX_TEXTS {
            self.texts.insert(text, (now, 0));
        }
        Some(of_place + of_text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_written_once_a_minute_and_counted() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut write = |seconds| repeats.write(start + Duration::from_secs(seconds), 1, 7);
        assert_eq!(write(0), Some(0));
        assert_eq!((write(1), write(59)), (None, None));
        assert_eq!(write(60), Some(2));
        assert_eq!(write(61), None);
    }

    #[test]
    fn one_place_writes_a_bounded_number_of_different_texts() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let written = (0..10_000).filter(|text| repeats.write(start, 1, *text).is_some()).count();
        assert_eq!(written, 30);
        assert_eq!(repeats.write(start, 2, 10_001), Some(0));
        assert_eq!(repeats.write(start + WINDOW, 1, 10_002), Some(9_970));
        for text in 0..10_000 {
            repeats.write(start, text, text);
        }
        assert!(repeats.texts.len() <= MAX_TEXTS);
    }
}
