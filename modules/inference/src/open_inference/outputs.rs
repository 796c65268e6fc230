//! The outputs of an answer: which are wished, and whether as values or as their highest classes.

use std::cmp::Ordering;

use half::f16;
use shunt_infer::{Port, Tensor, Values};

use super::{binary, fault::Fault, inputs::names};

/// Most classes that are told of a row. Each is a text of its own, and clients choose how many there are.
const CLASSES: usize = 1_000;

/// An output that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) name: String,
    /// In the binary form? `None` where the request does not say.
    pub(super) binary: Option<bool>,
    /// As so many classes; 0 for its values.
    pub(super) classes: usize,
}

/// An output that is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pick {
    index: usize,
    binary: bool,
    classes: usize,
}

/// An output as it is told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) binary: bool,
    pub(super) content: Content,
}

/// What an output has.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Values(Values),
    /// `value:index:label` of the highest, the best first.
    Classes(Vec<String>),
}

/// How outputs are read as classes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Labels {
    /// The output that they are for.
    pub(super) output: String,
    pub(super) names: Vec<String>,
    /// Is the first axis of each output that of the batch?
    pub(super) batches: bool,
}

/// The outputs that these wishes are for; without any, all.
pub(super) fn pick(ports: &[Port], wishes: &[Wish], binary: bool) -> Result<Vec<Pick>, Fault> {
    if wishes.is_empty() {
        return Ok((0..ports.len()).map(|index| Pick { index, binary, classes: 0 }).collect());
    }
    let mut picks: Vec<Pick> = Vec::new();
    for wish in wishes {
        let Some(index) = ports.iter().position(|port| port.name == wish.name) else {
            return Err(Fault::Bad(format!(
                "the model has no output {:?}; it gives {}",
                wish.name,
                names(ports)
            )));
        };
        if wish.classes > CLASSES {
            return Err(Fault::Bad(format!(
                "the parameter classification is {}, but at most {CLASSES} classes are told",
                wish.classes
            )));
        }
        if picks.iter().any(|pick| pick.index == index) {
            return Err(Fault::Bad(format!("the output {:?} is wished twice", wish.name)));
        }
        picks.push(Pick { index, binary: wish.binary.unwrap_or(binary), classes: wish.classes });
    }
    Ok(picks)
}

/// The picked ones of a model's outputs, in the order of the wishes.
pub(super) fn tell(
    ports: &[Port],
    outputs: Vec<Tensor>,
    picks: &[Pick],
    labels: &Labels,
) -> Result<Vec<Told>, Fault> {
    let mut outputs: Vec<_> = outputs.into_iter().map(Some).collect();
    let one = |pick: &Pick| {
        let output = outputs.get_mut(pick.index).and_then(Option::take);
        let (Some(Tensor { shape, values }), Some(port)) = (output, ports.get(pick.index)) else {
            return Err(Fault::Failed(format!("the model gave no output {}", pick.index)));
        };
        let (shape, content) = if pick.classes > 0 {
            let (shape, classes) = classes(&port.name, &shape, &values, pick.classes, labels);
            (shape, Content::Classes(classes))
        } else {
            (shape, Content::Values(values))
        };
        Ok(Told { name: port.name.clone(), shape, binary: pick.binary, content })
    };
    picks.iter().map(one).collect()
}

/// The highest of an output, for each row of the batch where there is one, and their shape.
fn classes(
    output: &str,
    shape: &[usize],
    values: &Values,
    count: usize,
    labels: &Labels,
) -> (Vec<usize>, Vec<String>) {
    let rows = if labels.batches { shape.first().copied().unwrap_or(1) } else { 1 };
    let length = values.len().checked_div(rows).unwrap_or(0);
    let count = count.min(length);
    let names = if output == labels.output { &labels.names[..] } else { &[] };
    let mut told = Vec::with_capacity(rows * count);
    for row in 0..rows {
        for (index, value) in highest(values, row * length, length, count) {
            // The classes are those of the output: a name goes with its place in a row.
            let name = names.get(index).map(|name| format!(":{name}")).unwrap_or_default();
            told.push(format!("{value}:{index}{name}"));
        }
    }
    (if labels.batches { vec![rows, count] } else { vec![count] }, told)
}

/// The highest of `length` values from `start` on with their places, and how they are written.
fn highest(values: &Values, start: usize, length: usize, count: usize) -> Vec<(usize, String)> {
    macro_rules! best {
        ($list:expr, $value:expr, $rank:expr, $write:literal) => {{
            let mut all: Vec<_> =
                $list.iter().skip(start).take(length).copied().map($value).enumerate().collect();
            let rank = $rank;
            all.sort_by(|(left, a), (right, b)| {
                rank(*b).partial_cmp(&rank(*a)).unwrap_or(Ordering::Equal).then(left.cmp(right))
            });
            all.truncate(count);
            all.into_iter().map(|(index, value)| (index, format!($write, value))).collect()
        }};
        ($list:expr) => {
            best!($list, |value| value, |value| value, "{}")
        };
    }
    // What is no number is last.
    let single = |value: f32| if value.is_nan() { f32::NEG_INFINITY } else { value };
    let double = |value: f64| if value.is_nan() { f64::NEG_INFINITY } else { value };
    match values {
        Values::Bool(list) => best!(list, u8::from, |value: u8| value, "{}"),
        Values::U8(list) => best!(list),
        Values::U16(list) => best!(list),
        Values::U32(list) => best!(list),
        Values::U64(list) => best!(list),
        Values::I8(list) => best!(list),
        Values::I16(list) => best!(list),
        Values::I32(list) => best!(list),
        Values::I64(list) => best!(list),
        Values::F16(list) => best!(list, |bits| f16::from_bits(bits).to_f32(), single, "{:.6}"),
        Values::F32(list) => best!(list, |value| value, single, "{:.6}"),
        Values::F64(list) => best!(list, |value| value, double, "{:.6}"),
    }
}

// === impl Pick ===

impl Pick {
    /// Is it for classes, not for values?
    pub(super) fn is_for_classes(self) -> bool {
        self.classes > 0
    }
}

// === impl Told ===

impl Told {
    pub(super) fn datatype(&self) -> &'static str {
        match &self.content {
            Content::Values(values) => values.element().datatype(),
            Content::Classes(_) => "BYTES",
        }
    }

    /// In the binary form.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match &self.content {
            Content::Values(values) => binary::bytes(values),
            Content::Classes(classes) => binary::text_bytes(classes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shunt_infer::Element;

    fn ports() -> Vec<Port> {
        ["probabilities", "box"]
            .map(|name| Port { name: name.to_owned(), element: Element::F32, shape: vec![None, Some(3)] })
            .to_vec()
    }

    fn wish(name: &str, classes: usize) -> Wish {
        Wish { name: name.to_owned(), binary: None, classes }
    }

    fn outputs() -> Vec<Tensor> {
        let values = |values: &[f32]| Tensor { shape: vec![2, 3], values: Values::F32(values.to_vec()) };
        vec![values(&[0.25, 0.5, 0.25, f32::NAN, -1.0, 2.0]), values(&[1.0; 6])]
    }

    fn labels(batches: bool) -> Labels {
        let names = ["cat", "dog"].map(ToOwned::to_owned).to_vec();
        Labels { output: "probabilities".to_owned(), names, batches }
    }

    #[test]
    fn without_wishes_all_outputs_are_told() {
        let picks = pick(&ports(), &[], true).unwrap();
        let told = tell(&ports(), outputs(), &picks, &labels(true)).unwrap();
        assert_eq!(
            told.iter().map(|told| (&told.name[..], told.binary)).collect::<Vec<_>>(),
            [("probabilities", true), ("box", true)]
        );
    }

    #[test]
    fn the_highest_classes_of_each_row_are_told_with_their_labels() {
        let picks = pick(&ports(), &[wish("box", 0), wish("probabilities", 2)], false).unwrap();
        let told = tell(&ports(), outputs(), &picks, &labels(true)).unwrap();
        assert_eq!(told[0].content, Content::Values(Values::F32(vec![1.0; 6])));
        assert_eq!((told[1].datatype(), &told[1].shape[..]), ("BYTES", &[2, 2][..]));
        let classes = ["0.500000:1:dog", "0.250000:0:cat", "2.000000:2", "-1.000000:1:dog"];
        assert_eq!(told[1].content, Content::Classes(classes.map(ToOwned::to_owned).to_vec()));
    }

    #[test]
    fn without_a_batch_all_values_are_one_row_and_more_classes_than_there_are_are_all() {
        let picks = pick(&ports(), &[wish("box", 100)], false).unwrap();
        let told = tell(&ports(), outputs(), &picks, &labels(false)).unwrap();
        assert_eq!(told[0].shape, [6]);
        let Content::Classes(classes) = &told[0].content else { panic!() };
        assert_eq!(classes[5], "1.000000:5");
    }

    #[test]
    fn whole_numbers_are_compared_as_such() {
        let values = Values::I64(vec![i64::MAX - 1, i64::MAX, -5]);
        let best = highest(&values, 0, 3, 2);
        assert_eq!(best, [(1, i64::MAX.to_string()), (0, (i64::MAX - 1).to_string())]);
    }

    #[test]
    fn an_output_that_is_not_there_or_wished_twice_is_refused() {
        let error = |wishes: &[Wish]| pick(&ports(), wishes, false).unwrap_err().to_string();
        let gives = "\"probabilities\" FP32 [-1, 3], \"box\" FP32 [-1, 3]";
        assert_eq!(error(&[wish("x", 0)]), format!("the model has no output \"x\"; it gives {gives}"));
        assert_eq!(error(&[wish("box", 0), wish("box", 1)]), "the output \"box\" is wished twice");
    }

    #[test]
    fn a_client_cannot_ask_for_any_number_of_classes() {
        let ports = [Port { name: "out".to_owned(), element: Element::F32, shape: vec![None, Some(2)] }];
        let wish = |classes| [Wish { name: "out".to_owned(), binary: None, classes }];
        assert!(pick(&ports, &wish(1_000), true).is_ok());
        let error = pick(&ports, &wish(1_000_000_000), true).unwrap_err().to_string();
        assert_eq!(error, "the parameter classification is 1000000000, but at most 1000 classes are told");
    }
}
