//! Where pictures come from, read from the setting `source`.

use std::{fmt, path::PathBuf, str::FromStr};

/// Where pictures come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A folder of pictures, or one picture.
    Pictures(PathBuf),
    /// JPEG pictures one after another in a file.
    MjpegFile(PathBuf),
    /// A Motion JPEG stream over HTTP. May hold a password: shown without.
    MjpegStream(String),
    /// A V4L2 device.
    Webcam(PathBuf),
    /// A video file, or an RTSP address. May hold a password: shown without.
    #[cfg_attr(not(feature = "opencv"), expect(dead_code, reason = "this build has no OpenCV"))]
    Video(String),
}

/// Why a text names no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error(
        "it is empty; allowed are a folder, a picture, a .mjpeg file, http://, https://, /dev/videoN, a video file, rtsp://"
    )]
    Empty,
    #[error("{0}:// is not known; allowed are http://, https:// and rtsp://")]
    Scheme(String),
    #[error("it is no address: {0}")]
    Url(String),
    #[cfg_attr(feature = "opencv", expect(dead_code, reason = "this build can"))]
    #[error(
        "video files and RTSP need OpenCV, which this build lacks: take the image for the platform amd64.opencv, or build with --features opencv (scripts/demo --opencv)"
    )]
    NeedsOpencv,
}

// === impl Address ===

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        let (mjpeg, rest) = text.strip_prefix("mjpeg:").map_or((false, text), |rest| (true, rest));
        if let Some((scheme, _)) = rest.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" => match rest.parse::<reqwest::Url>() {
                    Ok(_) => Ok(Self::MjpegStream(rest.to_owned())),
                    Err(error) => Err(AddressError::Url(error.to_string())),
                },
                "rtsp" | "rtsps" if !mjpeg => video(rest),
                other => Err(AddressError::Scheme(other.to_owned())),
            };
        }
        let path = PathBuf::from(rest);
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match extension.as_str() {
            _ if mjpeg => Ok(Self::MjpegFile(path)),
            _ if rest.starts_with("/dev/video") => Ok(Self::Webcam(path)),
            "mjpeg" | "mjpg" => Ok(Self::MjpegFile(path)),
            "mp4" | "m4v" | "mov" | "mkv" | "webm" | "avi" | "mpg" | "mpeg" | "ts" | "ogv" | "flv"
            | "wmv" => video(rest),
            _ => Ok(Self::Pictures(path)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pictures(path) | Self::MjpegFile(path) | Self::Webcam(path) => {
                path.display().fmt(formatter)
            }
            Self::MjpegStream(address) | Self::Video(address) => without_password(address).fmt(formatter),
        }
    }
}

#[cfg(feature = "opencv")]
#[expect(clippy::unnecessary_wraps, reason = "the other build refuses")]
fn video(address: &str) -> Result<Address, AddressError> {
    Ok(Address::Video(address.to_owned()))
}

#[cfg(not(feature = "opencv"))]
fn video(_: &str) -> Result<Address, AddressError> {
    Err(AddressError::NeedsOpencv)
}

/// The address without `user:password@`.
fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_the_text_tells_the_kind_of_source() {
        let check = |text: &str, expected: Address| assert_eq!(text.parse(), Ok(expected), "{text}");
        check("/pictures", Address::Pictures("/pictures".into()));
        check("./a b/one.JPG", Address::Pictures("./a b/one.JPG".into()));
        check("/clips/door.MJPEG", Address::MjpegFile("/clips/door.MJPEG".into()));
        check("mjpeg:/clips/door", Address::MjpegFile("/clips/door".into()));
        check("/dev/video3", Address::Webcam("/dev/video3".into()));
        check("http://camera:81/stream", Address::MjpegStream("http://camera:81/stream".into()));
        check("mjpeg:https://camera/", Address::MjpegStream("https://camera/".into()));
    }

    #[test]
    fn texts_that_name_no_source_are_refused() {
        let refused = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        assert!(refused("  ").starts_with("it is empty"));
        assert!(refused("ftp://x/y").starts_with("ftp:// is not known"));
        assert!(refused("mjpeg:rtsp://x/y").starts_with("rtsp:// is not known"));
        assert!(refused("http://").starts_with("it is no address"));
    }

    #[cfg(not(feature = "opencv"))]
    #[test]
    fn without_opencv_video_is_refused_with_the_way_out() {
        for text in ["rtsp://camera/1", "/clips/door.mp4"] {
            let message = text.parse::<Address>().unwrap_err().to_string();
            assert!(message.contains("platform amd64.opencv") && message.contains("--features opencv"));
        }
    }

    #[cfg(feature = "opencv")]
    #[test]
    fn with_opencv_video_is_taken() {
        for text in ["rtsp://camera/1", "/clips/door.mp4"] {
            assert_eq!(text.parse(), Ok(Address::Video(text.to_owned())));
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let address: Address = "http://me:secret@camera:81/stream?a=b@c".parse().unwrap();
        assert_eq!(address.to_string(), "http://camera:81/stream?a=b@c");
    }
}
