//! What part of a picture a frame shows.

use std::f32::consts::TAU;

use shunt_vision::{Picture, Rect};

/// How far the slow motion zooms in: a quarter, so that what is in the middle stays in view.
const ZOOM: f32 = 0.25;
/// Seconds of one zoom in and out.
const ZOOM_PERIOD: f32 = 9.0;
/// Seconds of one way from left to right and back, and from top to bottom. They share no small multiple, so that
/// the path does not look like one.
const PAN_PERIODS: (f32, f32) = (11.0, 7.0);

/// The smallest region of that shape around the middle of the picture that holds all of it. Where it lies
/// outside of the picture, the frame gets black bars: nothing is cut off, and nothing distorted.
pub(crate) fn whole(picture: &Picture, width: u32, height: u32) -> Rect {
    let (picture_width, picture_height) = (picture.width as f32, picture.height as f32);
    let scale = (picture_width / width.max(1) as f32).max(picture_height / height.max(1) as f32);
    let (width, height) = (width as f32 * scale, height as f32 * scale);
    Rect { x: (picture_width - width) / 2.0, y: (picture_height - height) / 2.0, width, height }
}

/// The part of the region that is in view after so many seconds of slow motion. It begins with all of it.
pub(crate) fn pan_zoom(region: Rect, seconds: f32) -> Rect {
    let zoom = 1.0 + ZOOM * (1.0 - (TAU * seconds / ZOOM_PERIOD).cos()) / 2.0;
    let (width, height) = (region.width / zoom, region.height / zoom);
    let along = |period: f32, room: f32| room / 2.0 * (1.0 + (TAU * seconds / period).sin());
    Rect {
        x: region.x + along(PAN_PERIODS.0, region.width - width),
        y: region.y + along(PAN_PERIODS.1, region.height - height),
        width,
        height,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_picture_is_in_the_middle_of_the_region() {
        let wide = Picture::filled(200, 50, [0; 3]);
        assert_eq!(whole(&wide, 100, 100), Rect { x: 0.0, y: -75.0, width: 200.0, height: 200.0 });
        let high = Picture::filled(50, 100, [0; 3]);
        assert_eq!(whole(&high, 200, 100), Rect { x: -75.0, y: 0.0, width: 200.0, height: 100.0 });
        let same = Picture::filled(640, 480, [0; 3]);
        assert_eq!(whole(&same, 320, 240), Rect { x: 0.0, y: 0.0, width: 640.0, height: 480.0 });
    }

    #[test]
    fn motion_stays_in_the_region_keeps_its_shape_and_moves_slowly() {
        let region = Rect { x: -10.0, y: 5.0, width: 400.0, height: 300.0 };
        assert_eq!(pan_zoom(region, 0.0), region);
        let mut before = region;
        for step in 1..3000 {
            let view = pan_zoom(region, step as f32 / 30.0);
            assert!(view.x >= region.x - 0.01 && view.x + view.width <= region.x + region.width + 0.01);
            assert!(view.y >= region.y - 0.01 && view.y + view.height <= region.y + region.height + 0.01);
            assert!((view.width / view.height - 4.0 / 3.0).abs() < 0.001);
            assert!((view.x - before.x).abs() < 3.0 && (view.width - before.width).abs() < 3.0);
            before = view;
        }
    }
}
