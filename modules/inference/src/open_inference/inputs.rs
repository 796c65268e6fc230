//! The inputs of a request, put in the order of the model's own.

use shunt_infer::{Element, Port, Tensor, Values};

use super::fault::Fault;

/// The inputs of a request, as far as they are there.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    ports: &'a [Port],
    tensors: Vec<Option<Tensor>>,
}

/// What an input says of itself, found to fit the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    index: usize,
    pub(super) name: String,
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
    /// The lengths' product.
    pub(super) count: usize,
}

// === impl Inputs ===

impl<'a> Inputs<'a> {
    pub(super) fn new(ports: &'a [Port]) -> Self {
        Self { ports, tensors: ports.iter().map(|_| None).collect() }
    }

    /// The place of an input that says this of itself; its values have not been looked at.
    pub(super) fn place(&self, name: &str, datatype: &str, shape: &[i64]) -> Result<Place, Fault> {
        let wrong = |text: String| Fault::Bad(format!("the input {name:?}: {text}"));
        let Some(index) = self.ports.iter().position(|port| port.name == name) else {
            return Err(Fault::Bad(format!(
                "the model has no input {name:?}; it takes {}",
                names(self.ports)
            )));
        };
        let Some(port) = self.ports.get(index) else { return Err(wrong("it has no place".to_owned())) };
        if self.tensors.get(index).is_some_and(Option::is_some) {
            return Err(wrong("it is there twice".to_owned()));
        }
        if datatype == "BYTES" {
            return Err(wrong(format!("texts (BYTES) are not taken by any model here; it takes {port}")));
        }
        let Some(element) = Element::from_datatype(datatype) else {
            return Err(wrong(format!("the datatype {datatype:?} is not known; it takes {port}")));
        };
        let lengths: Option<Vec<usize>> = shape.iter().map(|length| usize::try_from(*length).ok()).collect();
        let Some(lengths) = lengths.filter(|lengths| !lengths.contains(&0)) else {
            return Err(wrong(format!("the lengths of its shape must be above 0, but it is {shape:?}")));
        };
        let count = lengths.iter().try_fold(element.size(), |bytes, length| bytes.checked_mul(*length));
        // So large that its bytes cannot be counted.
        let Some(bytes) = count else { return Err(wrong(format!("its shape {shape:?} is too large"))) };
        if element != port.element || !port.takes(&lengths) {
            return Err(wrong(format!("the model takes {port}, not {datatype} {shape:?}")));
        }
        Ok(Place { index, name: name.to_owned(), element, shape: lengths, count: bytes / element.size() })
    }

    /// The place of the only input, whose shape follows from how many bytes there are.
    pub(super) fn only_place(&self, bytes: usize) -> Result<Place, Fault> {
        let [port] = self.ports else {
            return Err(Fault::Bad(format!(
                "a request of bare bytes is for models with one input, but this one takes {}",
                names(self.ports)
            )));
        };
        let open = port.shape.iter().filter(|length| length.is_none()).count();
        let fixed: usize = port.shape.iter().flatten().product::<usize>() * port.element.size();
        if open > 1 || fixed == 0 {
            return Err(Fault::Bad(format!(
                "the shape of bare bytes cannot be told: the model takes {port}"
            )));
        }
        let length = if open == 1 { bytes / fixed } else { 1 };
        if length == 0 || length * fixed != bytes {
            return Err(Fault::Bad(format!("{bytes} bytes are no tensor that the model takes: {port}")));
        }
        let shape = port.shape.iter().map(|own| own.unwrap_or(length)).collect();
        let count = bytes / port.element.size();
        Ok(Place { index: 0, name: port.name.clone(), element: port.element, shape, count })
    }

    /// Puts values in their place.
    pub(super) fn put(&mut self, place: Place, values: Values) {
        if let Some(tensor) = self.tensors.get_mut(place.index) {
            *tensor = Some(Tensor { shape: place.shape, values });
        }
    }

    /// All of them, or which one is missing.
    pub(super) fn finish(self) -> Result<Vec<Tensor>, Fault> {
        let ports = self.ports;
        let each = self.tensors.into_iter().zip(ports);
        each.map(|(tensor, port)| {
            tensor.ok_or_else(|| {
                Fault::Bad(format!("the input {:?} is missing; the model takes {}", port.name, names(ports)))
            })
        })
        .collect()
    }
}

// === impl Place ===

impl Place {
    /// Something is wrong with its values.
    pub(super) fn wrong(&self, error: impl std::fmt::Display) -> Fault {
        Fault::Bad(format!("the input {:?}: {error}", self.name))
    }
}

/// `"data" FP32 [1, 3]`, parted by commas.
pub(super) fn names(ports: &[Port]) -> String {
    let names: Vec<_> = ports.iter().map(|port| format!("{:?} {port}", port.name)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Vec<Port> {
        let port = |name: &str, element, shape: &[Option<usize>]| Port {
            name: name.to_owned(),
            element,
            shape: shape.to_vec(),
        };
        vec![port("pixels", Element::U8, &[None, Some(2), Some(3)]), port("scale", Element::F32, &[Some(1)])]
    }

    fn error(name: &str, datatype: &str, shape: &[i64]) -> String {
        Inputs::new(&ports()).place(name, datatype, shape).unwrap_err().to_string()
    }

    #[test]
    fn each_way_in_which_an_input_does_not_fit_is_told() {
        let takes = "\"pixels\" UINT8 [-1, 2, 3], \"scale\" FP32 [1]";
        assert_eq!(error("x", "UINT8", &[1]), format!("the model has no input \"x\"; it takes {takes}"));
        let of = |text: &str| format!("the input \"pixels\": {text}");
        for (datatype, shape, text) in [
            (
                "BYTES",
                &[1, 2, 3][..],
                "texts (BYTES) are not taken by any model here; it takes UINT8 [-1, 2, 3]",
            ),
            ("BF16", &[1, 2, 3], "the datatype \"BF16\" is not known; it takes UINT8 [-1, 2, 3]"),
            ("uint8", &[1, 2, 3], "the datatype \"uint8\" is not known; it takes UINT8 [-1, 2, 3]"),
            ("INT8", &[1, 2, 3], "the model takes UINT8 [-1, 2, 3], not INT8 [1, 2, 3]"),
            ("UINT8", &[2, 3], "the model takes UINT8 [-1, 2, 3], not UINT8 [2, 3]"),
            ("UINT8", &[1, 3, 2], "the model takes UINT8 [-1, 2, 3], not UINT8 [1, 3, 2]"),
            ("UINT8", &[-1, 2, 3], "the lengths of its shape must be above 0, but it is [-1, 2, 3]"),
            ("UINT8", &[0, 2, 3], "the lengths of its shape must be above 0, but it is [0, 2, 3]"),
            ("UINT8", &[i64::MAX, 2, 3], "its shape [9223372036854775807, 2, 3] is too large"),
        ] {
            assert_eq!(error("pixels", datatype, shape), of(text));
        }
    }

    #[test]
    fn an_input_that_is_there_twice_or_not_at_all_is_told() {
        let ports = ports();
        let mut inputs = Inputs::new(&ports);
        let place = inputs.place("pixels", "UINT8", &[2, 2, 3]).unwrap();
        assert_eq!(place.count, 12);
        inputs.put(place, Values::U8(vec![0; 12]));
        let twice = inputs.place("pixels", "UINT8", &[2, 2, 3]).unwrap_err().to_string();
        assert_eq!(twice, "the input \"pixels\": it is there twice");
        let missing = inputs.finish().unwrap_err().to_string();
        assert!(
            missing.starts_with("the input \"scale\" is missing; the model takes \"pixels\""),
            "{missing}"
        );
    }

    #[test]
    fn the_shape_of_bare_bytes_follows_from_their_number() {
        let ports = ports();
        let one = &ports[..1];
        assert_eq!(Inputs::new(one).only_place(18).unwrap().shape, [3, 2, 3]);
        for bytes in [0, 5, 19] {
            assert!(Inputs::new(one).only_place(bytes).is_err(), "{bytes}");
        }
        assert_eq!(Inputs::new(&ports[1..]).only_place(4).unwrap().count, 1);
        assert!(Inputs::new(&ports[1..]).only_place(8).is_err());
        assert!(Inputs::new(&ports).only_place(18).is_err());
    }
}
