//! Which frames of a source are looked at: rate, region, motion.

use std::{collections::BTreeMap, time::Duration};

use shunt_vision::{MotionGate, MotionOptions, Picture, Rect};
use shunt_wire::{Mono, Name};

use crate::{InferenceSettings, Motion, Region, field_tally::Skip};

/// Most sources remembered. A further one takes the place of the one that was silent longest, whose next frame then
/// counts as its first.
const SOURCES: usize = 64;

/// What holds for one source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rules {
    pub(crate) enabled: bool,
    pub(crate) max_per_s: f64,
    pub(crate) min_score: f64,
    pub(crate) region: Option<Region>,
    pub(crate) motion: Motion,
}

/// What is remembered of the sources.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    sources: BTreeMap<Name, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// When the next frame may be judged.
    due: Mono,
    /// When its last frame came.
    last: Mono,
    /// When one was judged last.
    judged: Option<Mono>,
    gate: MotionGate,
}

// === impl Rules ===

impl Rules {
    /// Those of the settings for this source.
    pub(crate) fn of(settings: &InferenceSettings, source: &Name) -> Self {
        let own = settings.sources.get(source.as_str()).cloned().unwrap_or_default();
        Self {
            enabled: own.enabled.unwrap_or(true),
            max_per_s: own.max_per_s.unwrap_or(settings.max_per_s),
            min_score: own.min_score.unwrap_or(settings.min_score),
            region: own.region.or(settings.region),
            motion: own.motion.unwrap_or(settings.motion),
        }
    }

    /// The part of this picture that is looked at, in its pixels; `None` for all of it.
    pub(crate) fn part(&self, picture: &Picture) -> Option<Rect> {
        let Region { x, y, width, height } = self.region?;
        let (across, down) = (picture.width as f32, picture.height as f32);
        Some(Rect { x: x * across, y: y * down, width: width * across, height: height * down })
    }
}

// === impl Watch ===

impl Watch {
    /// Is it the turn of this frame, which came at that time? Its pixels are not needed yet.
    pub(crate) fn admit(&mut self, source: &Name, rules: &Rules, at: Mono) -> Result<(), Skip> {
        if !rules.enabled {
            return Err(Skip::Off);
        }
        let seen = self.seen(source, at);
        seen.last = at;
        let interval = if rules.max_per_s > 0.0 { 1e9 / rules.max_per_s } else { f64::INFINITY };
        if interval.is_infinite() || at < seen.due {
            return Err(Skip::Rate);
        }
        // Counted from when this one was due, so that the mean rate is the one allowed whatever the camera's; of what
        // was not used in silence one frame is left.
        let since = seen.due.as_nanos().max(at.as_nanos().saturating_sub(interval as u64));
        seen.due = Mono::from_nanos(since.saturating_add(interval as u64));
        Ok(())
    }

    /// Is there anything new in this frame?
    pub(crate) fn moved(&mut self, source: &Name, rules: &Rules, picture: &Picture, at: Mono) -> bool {
        let motion = rules.motion;
        let part = rules.part(picture);
        let seen = self.seen(source, at);
        if motion.enabled {
            let threshold = motion.threshold;
            seen.gate.set_options(MotionOptions { threshold, ..MotionOptions::default() });
            let moved = seen.gate.moved(picture, part).moved;
            let still = seen.judged.is_some_and(|judged| {
                motion.still_s <= 0.0 || at.since(judged) < Duration::from_secs_f64(motion.still_s)
            });
            if !moved && still {
                return false;
            }
        }
        seen.judged = Some(at);
        true
    }

    /// The next frame of each source counts as its first: who judges, or by what settings, has changed.
    pub(crate) fn forget(&mut self) {
        self.sources.clear();
    }

    fn seen(&mut self, source: &Name, at: Mono) -> &mut Seen {
        if !self.sources.contains_key(source)
            && self.sources.len() >= SOURCES
            && let Some(silent) = self.sources.iter().min_by_key(|(_, seen)| seen.last)
        {
            let silent = silent.0.clone();
            self.sources.remove(&silent);
        }
        self.sources.entry(source.clone()).or_insert_with(|| Seen {
            due: at,
            last: at,
            judged: None,
            gate: MotionGate::new(MotionOptions::default()),
        })
    }
}

#[cfg(test)]
mod tests {
    use shunt_vision::fill;

    use super::*;
    use crate::SourceSettings;

    fn door() -> Name {
        Name::from_static("door")
    }

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    fn rules(max_per_s: f64, motion: Motion) -> Rules {
        let settings = InferenceSettings { max_per_s, motion, ..InferenceSettings::default() };
        Rules::of(&settings, &door())
    }

    /// Frames of a camera with this rate that are admitted in ten seconds.
    fn admitted(rate: u64, max_per_s: f64) -> usize {
        let (mut watch, rules) = (Watch::default(), rules(max_per_s, Motion::default()));
        (0..rate * 10).filter(|frame| watch.admit(&door(), &rules, at(frame * 1000 / rate)).is_ok()).count()
    }

    #[test]
    fn the_mean_rate_is_the_one_allowed_whatever_the_camera_s() {
        assert_eq!(admitted(15, 10.0), 100);
        assert_eq!(admitted(30, 4.0), 40);
        assert_eq!(admitted(5, 10.0), 50);
        assert_eq!(admitted(30, 0.5), 5);
        assert_eq!(admitted(30, 0.0), 0);
    }

    #[test]
    fn a_long_silence_brings_one_frame_more_and_no_burst() {
        let (mut watch, rules) = (Watch::default(), rules(1.0, Motion::default()));
        assert!(watch.admit(&door(), &rules, at(0)).is_ok());
        let after = (0..50).filter(|frame| watch.admit(&door(), &rules, at(60_000 + frame * 10)).is_ok());
        assert_eq!(after.count(), 2);
    }

    #[test]
    fn a_source_has_its_own_rules_and_the_others_those_of_all() {
        let own = SourceSettings { enabled: Some(false), min_score: Some(0.9), ..SourceSettings::default() };
        let settings = InferenceSettings {
            sources: BTreeMap::from([("door".to_owned(), own)]),
            max_per_s: 3.0,
            ..InferenceSettings::default()
        };
        let door_rules = Rules::of(&settings, &door());
        assert!(!door_rules.enabled);
        assert!((door_rules.min_score - 0.9).abs() < 1e-9 && (door_rules.max_per_s - 3.0).abs() < 1e-9);
        assert!(Rules::of(&settings, &Name::from_static("gate")).enabled);
        assert_eq!(Watch::default().admit(&door(), &door_rules, at(0)), Err(Skip::Off));
    }

    #[test]
    fn what_stands_still_is_looked_at_once_and_again_after_the_time_set() {
        let motion = Motion { enabled: true, threshold: 0.02, still_s: 2.0 };
        let (mut watch, rules) = (Watch::default(), rules(10.0, motion));
        let picture = Picture::filled(320, 240, [80, 90, 100]);
        let looked = (0..50).filter(|frame| watch.moved(&door(), &rules, &picture, at(frame * 100)));
        assert_eq!(looked.collect::<Vec<_>>(), [0, 20, 40]);
        let mut moved = picture.clone();
        fill(&mut moved, 100, 100, 80, 80, [240, 240, 240]);
        assert!(watch.moved(&door(), &rules, &moved, at(5_100)));
        watch.forget();
        assert!(watch.moved(&door(), &rules, &moved, at(5_200)));
    }

    #[test]
    fn motion_outside_the_region_is_none() {
        let settings = InferenceSettings {
            motion: Motion { enabled: true, threshold: 0.02, still_s: 0.0 },
            region: Some(Region { x: 0.5, y: 0.0, width: 0.5, height: 1.0 }),
            ..InferenceSettings::default()
        };
        let (mut watch, rules) = (Watch::default(), Rules::of(&settings, &door()));
        let picture = Picture::filled(320, 240, [80, 90, 100]);
        assert!(watch.moved(&door(), &rules, &picture, at(0)));
        let mut left = picture.clone();
        fill(&mut left, 10, 10, 100, 200, [240, 240, 240]);
        assert!(!watch.moved(&door(), &rules, &left, at(100)));
        let mut right = picture;
        fill(&mut right, 200, 10, 100, 200, [240, 240, 240]);
        assert!(watch.moved(&door(), &rules, &right, at(200)));
    }

    #[test]
    fn the_number_of_sources_remembered_is_bounded() {
        let (mut watch, rules) = (Watch::default(), rules(1.0, Motion::default()));
        for number in 0..200 {
            let source: Name = format!("camera-{number}").parse().unwrap();
            assert!(watch.admit(&source, &rules, at(number)).is_ok());
        }
        assert_eq!(watch.sources.len(), SOURCES);
    }
}
