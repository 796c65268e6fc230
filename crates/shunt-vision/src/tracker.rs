//! The same number for the same face, as long as it stays in view.

use shunt_wire::events::Rect;

use crate::faces::intersection_over_union;

/// How a [`FaceTracker`] decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackerOptions {
    /// The first number to give.
    pub first: u64,
    /// Frames in a row in which a face may be missing and still be the same when it is back. Default 5.
    pub max_missed: u32,
    /// The least shared area (of both together) for two boxes to be the same face. Default 0.2.
    pub min_overlap: f32,
    /// Boxes that share less are the same face if their middles are no further apart than this part of the
    /// larger one's side, and their sides differ by no more than half. Default 0.6.
    pub max_distance: f32,
}

/// Gives each face of one source a number, by where it is: the boxes of a frame are matched with those of the
/// last ones, nearest first. A number is never given twice.
///
/// It knows nothing of who a face belongs to: a person who leaves and comes back gets a new number.
#[derive(Debug, Clone)]
pub struct FaceTracker {
    options: TrackerOptions,
    next: u64,
    tracks: Vec<Track>,
}

#[derive(Debug, Clone, Copy)]
struct Track {
    number: u64,
    bounds: Rect,
    /// Movement of the middle from the last frame it was seen in to the one before, in pixels a frame.
    speed: [f32; 2],
    missed: u32,
}

// === impl TrackerOptions ===

impl Default for TrackerOptions {
    fn default() -> Self {
        Self { first: 1, max_missed: 5, min_overlap: 0.2, max_distance: 0.6 }
    }
}

// === impl FaceTracker ===

impl FaceTracker {
    /// A tracker that has seen nothing yet.
    pub fn new(options: TrackerOptions) -> Self {
        Self { options, next: options.first, tracks: Vec::new() }
    }

    /// The number that the next new face will get.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// From now on new faces get numbers from here; a number lower than the next is ignored, so that none is
    /// given twice.
    pub fn continue_from(&mut self, number: u64) {
        self.next = self.next.max(number);
    }

    /// The numbers of the faces of the next frame, in the order of the boxes.
    pub fn update(&mut self, faces: &[Rect]) -> Vec<u64> {
        let mut pairs = self.pairs(faces);
        pairs.sort_by(|one, other| other.0.total_cmp(&one.0));
        let mut numbers: Vec<Option<u64>> = vec![None; faces.len()];
        let mut seen = vec![false; self.tracks.len()];
        for (_, track_index, face_index) in pairs {
            let (Some(seen), Some(number), Some(track), Some(face)) = (
                seen.get_mut(track_index),
                numbers.get_mut(face_index),
                self.tracks.get_mut(track_index),
                faces.get(face_index),
            ) else {
                continue;
            };
            if !*seen && number.is_none() {
                *seen = true;
                *number = Some(track.number);
                track.see(*face);
            }
        }
        let mut seen = seen.into_iter();
        let max_missed = self.options.max_missed;
        self.tracks.retain_mut(|track| {
            if seen.next() == Some(false) {
                track.missed += 1;
            }
            track.missed <= max_missed
        });
        let numbers = numbers.into_iter().zip(faces);
        numbers.map(|(number, face)| number.unwrap_or_else(|| self.begin(*face))).collect()
    }

    /// All pairs of track and face that may be the same: how well they fit, track, face.
    fn pairs(&self, faces: &[Rect]) -> Vec<(f32, usize, usize)> {
        let mut pairs = Vec::new();
        for (track_index, track) in self.tracks.iter().enumerate() {
            for (face_index, face) in faces.iter().enumerate() {
                let fit = self.fit(track.bounds, *face).max(self.fit(track.expected(), *face));
                if fit > 0.0 {
                    pairs.push((fit, track_index, face_index));
                }
            }
        }
        pairs
    }

    /// How well two boxes fit: 1 to 2 where they overlap enough, 0 to 1 where they are near, 0 where neither.
    fn fit(&self, one: Rect, other: Rect) -> f32 {
        let overlap = intersection_over_union(one, other);
        if overlap >= self.options.min_overlap {
            return 1.0 + overlap;
        }
        let (small, large) = (one.width.min(other.width), one.width.max(other.width));
        let distance = (middle(one)[0] - middle(other)[0]).hypot(middle(one)[1] - middle(other)[1]);
        let allowed = self.options.max_distance * large;
        if small * 2.0 >= large && distance < allowed { 1.0 - distance / allowed } else { 0.0 }
    }

    fn begin(&mut self, bounds: Rect) -> u64 {
        let number = self.next;
        self.next += 1;
        self.tracks.push(Track { number, bounds, speed: [0.0; 2], missed: 0 });
        number
    }
}

fn middle(rect: Rect) -> [f32; 2] {
    [rect.x + rect.width / 2.0, rect.y + rect.height / 2.0]
}

// === impl Track ===

impl Track {
    fn see(&mut self, bounds: Rect) {
        let ([from_x, from_y], [to_x, to_y]) = (middle(self.bounds), middle(bounds));
        let frames = (self.missed + 1) as f32;
        *self = Self {
            bounds,
            speed: [(to_x - from_x) / frames, (to_y - from_y) / frames],
            missed: 0,
            number: self.number,
        };
    }

    /// Where the face should be in the next frame if it moves on as it did.
    fn expected(&self) -> Rect {
        let frames = (self.missed + 1) as f32;
        let [speed_x, speed_y] = self.speed;
        Rect { x: self.bounds.x + speed_x * frames, y: self.bounds.y + speed_y * frames, ..self.bounds }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn face(x: f32, y: f32) -> Rect {
        Rect { x, y, width: 100.0, height: 100.0 }
    }

    #[test]
    fn a_face_that_moves_keeps_its_number() {
        let mut tracker = FaceTracker::new(TrackerOptions::default());
        for step in 0..100_u8 {
            assert_eq!(tracker.update(&[face(f32::from(step) * 15.0, 50.0)]), [1]);
        }
    }

    #[test]
    fn a_face_that_moves_fast_is_expected_where_it_goes() {
        let mut tracker = FaceTracker::new(TrackerOptions::default());
        let mut x = 0.0;
        for step in 0..20_u8 {
            assert_eq!(tracker.update(&[face(x, 0.0)]), [1], "step {step}");
            x += 50.0 + f32::from(step) * 12.0;
        }
    }

    #[test]
    fn two_faces_keep_their_numbers_whatever_the_order() {
        let mut tracker = FaceTracker::new(TrackerOptions::default());
        assert_eq!(tracker.update(&[face(0.0, 0.0), face(300.0, 0.0)]), [1, 2]);
        assert_eq!(tracker.update(&[face(290.0, 5.0), face(10.0, 5.0)]), [2, 1]);
        assert_eq!(tracker.update(&[face(15.0, 5.0), face(600.0, 5.0), face(285.0, 5.0)]), [1, 3, 2]);
    }

    #[test]
    fn a_face_may_be_missing_for_a_few_frames() {
        let mut tracker = FaceTracker::new(TrackerOptions::default());
        assert_eq!(tracker.update(&[face(0.0, 0.0)]), [1]);
        for _ in 0..5 {
            assert!(tracker.update(&[]).is_empty());
        }
        assert_eq!(tracker.update(&[face(5.0, 0.0)]), [1]);
        for _ in 0..6 {
            assert!(tracker.update(&[]).is_empty());
        }
        assert_eq!(tracker.update(&[face(5.0, 0.0)]), [2]);
    }

    #[test]
    fn another_face_elsewhere_gets_a_new_number() {
        let mut tracker = FaceTracker::new(TrackerOptions { first: 1_000, ..TrackerOptions::default() });
        assert_eq!(tracker.update(&[face(0.0, 0.0)]), [1_000]);
        assert_eq!(tracker.update(&[face(500.0, 300.0)]), [1_001]);
        tracker.continue_from(5);
        assert_eq!(tracker.next_number(), 1_002);
    }

    proptest! {
        #[test]
        fn no_number_is_given_twice(
            frames in proptest::collection::vec(
                proptest::collection::vec((0.0_f32..2_000.0, 0.0_f32..2_000.0), 0..6), 1..60),
        ) {
            let mut tracker = FaceTracker::new(TrackerOptions::default());
            let mut last_new = 0;
            let mut gone = std::collections::BTreeMap::new();
            for (index, frame) in frames.into_iter().enumerate() {
                let faces: Vec<_> = frame.into_iter().map(|(x, y)| face(x, y)).collect();
                let numbers = tracker.update(&faces);
                let mut unique = numbers.clone();
                unique.sort_unstable();
                unique.dedup();
                prop_assert_eq!(unique.len(), numbers.len());
                for number in numbers {
                    let last_seen = gone.insert(number, index);
                    match last_seen {
                        None => {
                            prop_assert!(number > last_new);
                            last_new = number;
                        }
                        Some(last_seen) => prop_assert!(index - last_seen <= 6),
                    }
                }
            }
        }
    }
}
