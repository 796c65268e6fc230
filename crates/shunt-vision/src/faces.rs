//! What a face finder's numbers mean: anchors, boxes, and one box a face.
//!
//! `BlazeFace` (Bazarevsky et al. 2019, and `MediaPipe`'s graphs) answers for fixed points of its input square, the
//! anchors; a box is given relative to its anchor. `UltraFace` answers with edges, decoded already.
//! All coordinates here are units of the input: 0 to 1 from left to right and from top to bottom.

use shunt_wire::events::Rect;

/// A face found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Where it is; units as the caller's.
    pub bounds: Rect,
    /// How sure the finder is, 0 to 1.
    pub score: f32,
}

/// The anchors of `BlazeFace` short range (input 128x128): 16x16 cells with two anchors each, then 8x8 with six.
pub fn short_range_anchors() -> Vec<[f32; 2]> {
    let mut anchors = grid(16, 2);
    anchors.extend(grid(8, 6));
    anchors
}

/// The anchors of `BlazeFace` full range (input 192x192): 48x48 cells with one anchor each.
pub fn full_range_anchors() -> Vec<[f32; 2]> {
    grid(48, 1)
}

/// The middle of each cell of a square of `cells` times `cells`, row by row, so many times each.
fn grid(cells: u16, times: usize) -> Vec<[f32; 2]> {
    let middle = |cell: u16| (f32::from(cell) + 0.5) / f32::from(cells);
    let row = |y: u16| (0..cells).flat_map(move |x| std::iter::repeat_n([middle(x), middle(y)], times));
    (0..cells).flat_map(row).collect()
}

/// Reads `BlazeFace`'s answer: for each anchor 16 numbers (middle, width and height of the box, then six points
/// of the face) in pixels of the input of `side` pixels, and a score before the sigmoid.
///
/// Numbers for which there is no anchor, and boxes without area, are left out.
pub fn blaze_faces(
    boxes: &[f32],
    scores: &[f32],
    anchors: &[[f32; 2]],
    side: f32,
    min_score: f32,
) -> Vec<Detection> {
    let (boxes, _) = boxes.as_chunks::<16>();
    let rows = boxes.iter().zip(scores).zip(anchors);
    rows.filter_map(|((&[x, y, width, height, ..], score), [anchor_x, anchor_y])| {
        // As MediaPipe does: a sigmoid of what is kept from -100 to 100.
        let score = 1.0 / (1.0 + (-score.clamp(-100.0, 100.0)).exp());
        let (width, height) = (width / side, height / side);
        let bounds = Rect {
            x: anchor_x + x / side - width / 2.0,
            y: anchor_y + y / side - height / 2.0,
            width,
            height,
        };
        (score >= min_score && width > 0.0 && height > 0.0).then_some(Detection { bounds, score })
    })
    .collect()
}

/// Reads `UltraFace`'s answer: for each box four edges (left, top, right, bottom), and two probabilities
/// (background, face).
pub fn edge_faces(boxes: &[f32], scores: &[f32], min_score: f32) -> Vec<Detection> {
    let ((boxes, _), (scores, _)) = (boxes.as_chunks::<4>(), scores.as_chunks::<2>());
    let rows = boxes.iter().zip(scores);
    rows.filter_map(|(&[left, top, right, bottom], &[_, score])| {
        let bounds = Rect { x: left, y: top, width: right - left, height: bottom - top };
        (score >= min_score && bounds.width > 0.0 && bounds.height > 0.0)
            .then_some(Detection { bounds, score })
    })
    .collect()
}

/// How much two rectangles share: the common area divided by the area of both together, 0 to 1.
pub fn intersection_over_union(one: Rect, other: Rect) -> f32 {
    let width = (one.x + one.width).min(other.x + other.width) - one.x.max(other.x);
    let height = (one.y + one.height).min(other.y + other.height) - one.y.max(other.y);
    if !(width > 0.0 && height > 0.0) {
        return 0.0;
    }
    let common = width * height;
    common / (one.width * one.height + other.width * other.height - common)
}

/// How several boxes of one face become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suppression {
    /// Their average, weighted by score, as `MediaPipe` does for `BlazeFace`.
    Weighted,
    /// The one with the best score.
    Best,
}

/// One box a face: boxes that share more than `overlap` of their area are one face; the best score counts.
/// The result is sorted by score, best first.
pub fn suppress(mut found: Vec<Detection>, overlap: f32, suppression: Suppression) -> Vec<Detection> {
    found.sort_by(|one, other| other.score.total_cmp(&one.score));
    let mut faces = Vec::new();
    while let Some(best) = found.first().copied() {
        let (same, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|other| intersection_over_union(best.bounds, other.bounds) > overlap);
        found = others;
        let bounds = match suppression {
            Suppression::Weighted if !same.is_empty() => average(&same),
            _ => best.bounds,
        };
        faces.push(Detection { bounds, score: best.score });
        // A box that shares nothing with itself has no sound edges; without this it would be found for ever.
        if same.is_empty() {
            found.remove(0);
        }
    }
    faces
}

fn average(same: &[Detection]) -> Rect {
    let total: f32 = same.iter().map(|face| face.score).sum();
    let mean = |edge: fn(&Rect) -> f32| {
        same.iter().map(|face| edge(&face.bounds) * face.score).sum::<f32>() / total.max(f32::MIN_POSITIVE)
    };
    let (left, top) = (mean(|rect| rect.x), mean(|rect| rect.y));
    Rect { x: left, y: top, width: mean(|rect| rect.width), height: mean(|rect| rect.height) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rect(x: f32, y: f32, width: f32, height: f32) -> Rect {
        Rect { x, y, width, height }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "the fractions have exact values in binary")]
    fn the_anchors_are_as_many_as_the_models_answer_for() {
        let short = short_range_anchors();
        assert_eq!(short.len(), 896);
        assert_eq!(short[0], [0.5 / 16.0, 0.5 / 16.0]);
        assert_eq!(short[1], short[0]);
        assert_eq!(short[2], [1.5 / 16.0, 0.5 / 16.0]);
        assert_eq!(short[512], [0.5 / 8.0, 0.5 / 8.0]);
        assert_eq!(short[895], [7.5 / 8.0, 7.5 / 8.0]);
        let full = full_range_anchors();
        assert_eq!(full.len(), 2304);
        assert_eq!(full[49], [0.031_25, 0.031_25]);
    }

    #[test]
    fn a_box_is_read_relative_to_its_anchor() {
        let mut boxes = [0.0; 32];
        boxes[16..20].copy_from_slice(&[12.8, -12.8, 25.6, 51.2]);
        let found = blaze_faces(&boxes, &[-5.0, 2.0], &[[0.1, 0.1], [0.5, 0.5]], 128.0, 0.5);
        assert_eq!(found.len(), 1);
        let Detection { bounds, score } = found[0];
        for (value, expected) in
            [(bounds.x, 0.5), (bounds.y, 0.2), (bounds.width, 0.2), (bounds.height, 0.4), (score, 0.8808)]
        {
            assert!((value - expected).abs() < 1e-4, "{value} is not {expected}");
        }
    }

    #[test]
    fn edges_and_probabilities_are_read() {
        let found = edge_faces(&[0.1, 0.2, 0.3, 0.6, 0.0, 0.0, 1.0, 1.0], &[0.1, 0.9, 0.8, 0.2], 0.5);
        assert_eq!(found.len(), 1);
        assert!((found[0].bounds.height - 0.4).abs() < 1e-6);
    }

    #[test]
    fn boxes_of_one_face_become_one() {
        let found = vec![
            Detection { bounds: rect(0.0, 0.0, 1.0, 1.0), score: 0.6 },
            Detection { bounds: rect(0.2, 0.0, 1.0, 1.0), score: 0.9 },
            Detection { bounds: rect(5.0, 5.0, 1.0, 1.0), score: 0.7 },
        ];
        let weighted = suppress(found.clone(), 0.3, Suppression::Weighted);
        assert_eq!(weighted.len(), 2);
        assert!((weighted[0].bounds.x - 0.12).abs() < 1e-6, "{weighted:?}");
        assert!((weighted[0].score - 0.9).abs() < 1e-6);
        let best = suppress(found, 0.3, Suppression::Best);
        assert_eq!(best[0].bounds, rect(0.2, 0.0, 1.0, 1.0));
        assert_eq!(best[1].bounds, rect(5.0, 5.0, 1.0, 1.0));
    }

    #[test]
    fn numbers_that_are_none_end_the_search_all_the_same() {
        let strange = Detection { bounds: rect(f32::NAN, 0.0, 1.0, 1.0), score: f32::NAN };
        assert_eq!(suppress(vec![strange, strange], 0.3, Suppression::Weighted).len(), 2);
        assert!(blaze_faces(&[f32::NAN; 16], &[f32::NAN], &[[0.5, 0.5]], 128.0, 0.5).is_empty());
    }
}
