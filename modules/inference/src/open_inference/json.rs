//! The JSON form of requests and answers over REST, with tensors in the binary form behind it where they are so.

use axum::body::Bytes;
use half::f16;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use shunt_infer::{Description, Tensor, Values};

use super::{
    VERSION, binary,
    fault::Fault,
    inputs::{Inputs, Place},
    numbers,
    outputs::{Content, Told, Wish},
};

/// A request as it is written.
#[derive(Debug, Deserialize)]
struct InferRequest<'a> {
    id: Option<String>,
    #[serde(borrow)]
    parameters: Option<Parameters<'a>>,
    #[serde(borrow)]
    inputs: Vec<RequestInput<'a>>,
    #[serde(borrow)]
    outputs: Option<Vec<RequestOutput<'a>>>,
}

#[derive(Debug, Deserialize)]
struct RequestInput<'a> {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(borrow)]
    parameters: Option<Parameters<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct RequestOutput<'a> {
    name: String,
    #[serde(borrow)]
    parameters: Option<Parameters<'a>>,
}

/// A request that fits the model.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    pub(super) id: Option<String>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) wishes: Vec<Wish>,
    /// The form of outputs whose wish does not say.
    pub(super) binary: bool,
}

#[derive(Debug, Serialize)]
struct InferResponse<'a> {
    model_name: &'a str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<ResponseOutput<'a>>,
}

#[derive(Debug, Serialize)]
struct ResponseOutput<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

#[derive(Debug, Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

/// The values of an output as one flat array.
#[derive(Debug)]
struct Data<'a>(&'a Content);

/// An answer: its bytes, and where its JSON ends if tensors in the binary form follow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) body: Vec<u8>,
    pub(super) header: Option<usize>,
}

/// The parameters of a request, an input or an output, of which these are understood; others are passed over. They are
/// kept as they are written: values made of them would take many times the room of the body.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct Parameters<'a> {
    #[serde(borrow)]
    sequence_id: Option<&'a RawValue>,
    #[serde(borrow)]
    shared_memory_region: Option<&'a RawValue>,
    #[serde(borrow)]
    binary_data_output: Option<&'a RawValue>,
    #[serde(borrow)]
    binary_data: Option<&'a RawValue>,
    #[serde(borrow)]
    binary_data_size: Option<&'a RawValue>,
    #[serde(borrow)]
    classification: Option<&'a RawValue>,
}

/// Reads a request for a model that is described so. `header`: how many bytes of JSON there are where tensors in the
/// binary form follow; 0 for a request that is nothing but one tensor.
pub(super) fn read(body: &Bytes, header: Option<usize>, model: &Description) -> Result<Call, Fault> {
    if header == Some(0) {
        let mut inputs = Inputs::new(&model.inputs);
        let place = inputs.only_place(body.len())?;
        let values = binary::values(body, place.element, place.count).map_err(|error| place.wrong(error))?;
        inputs.put(place, values);
        return Ok(Call { id: None, tensors: inputs.finish()?, wishes: Vec::new(), binary: true });
    }
    let (json, mut rest) = match header {
        Some(length) => body.split_at_checked(length).ok_or_else(|| {
            Fault::bad(format!("the header tells of {length} bytes of JSON, but the body has {}", body.len()))
        })?,
        None => (&body[..], &[][..]),
    };
    let request: InferRequest<'_> = serde_json::from_slice(json).map_err(|error| explain(&error, json))?;
    let parameters = request.parameters.unwrap_or_default();
    parameters.refuse_sequence()?;
    let mut inputs = Inputs::new(&model.inputs);
    for input in &request.inputs {
        let place = inputs.place(&input.name, &input.datatype, &input.shape)?;
        let values = input.values(&place, &mut rest, header.is_some())?;
        inputs.put(place, values);
    }
    if !rest.is_empty() {
        return Err(Fault::bad(format!("{} bytes follow that no input tells of", rest.len())));
    }
    let wishes = request.outputs.unwrap_or_default().into_iter().map(RequestOutput::wish);
    Ok(Call {
        wishes: wishes.collect::<Result<_, _>>()?,
        binary: flag("binary_data_output", parameters.binary_data_output)?.unwrap_or(false),
        tensors: inputs.finish()?,
        id: request.id,
    })
}

/// Writes an answer.
pub(super) fn write(model: &str, id: Option<&str>, told: &[Told]) -> Result<Written, Fault> {
    let bytes: Vec<_> = told.iter().map(|told| told.binary.then(|| told.bytes())).collect();
    let outputs = told.iter().zip(&bytes).map(|(told, bytes)| ResponseOutput::new(told, bytes.as_ref()));
    let response = InferResponse {
        model_name: model,
        model_version: VERSION,
        id,
        outputs: outputs.collect::<Result<_, _>>()?,
    };
    let mut body = serde_json::to_vec(&response).map_err(|error| Fault::Failed(error.to_string()))?;
    let header = bytes.iter().any(Option::is_some).then_some(body.len());
    for bytes in bytes.iter().flatten() {
        body.extend_from_slice(bytes);
    }
    Ok(Written { body, header })
}

/// Why a text is no request; NaN and infinities, which some clients write, are named with their place.
fn explain(error: &serde_json::Error, json: &[u8]) -> Fault {
    let before = json.split(|byte| *byte == b'\n').take(error.line().saturating_sub(1));
    let line: usize = before.map(|line| line.len() + 1).sum();
    let at = (line + error.column()).min(json.len());
    // serde_json stops somewhere inside the word.
    let start = at.saturating_sub(10);
    let near = json.get(start..(at + 10).min(json.len())).unwrap_or_default();
    let found = ["NaN", "Infinity", "inf", "nan"].into_iter().find_map(|word| {
        let place = near.windows(word.len()).position(|window| window == word.as_bytes())?;
        Some((word, start + place))
    });
    let Some((word, place)) = found else {
        return Fault::Bad(format!("the request is no such JSON: {error}"));
    };
    let before = json.get(..place).unwrap_or_default();
    let data = b"\"data\"";
    let data_at = before.windows(data.len()).rposition(|window| window == data).unwrap_or(0);
    let index = before.get(data_at..).unwrap_or_default().iter().filter(|byte| **byte == b',').count();
    Fault::Bad(format!(
        "the value {word} at index {index} (byte {place} of the request) is no JSON number; \
         send such values as binary data"
    ))
}

// === impl RequestInput ===

impl RequestInput<'_> {
    /// The values: those of its data, or the next of the bytes that follow the JSON.
    fn values(&self, place: &Place, rest: &mut &[u8], has_binary: bool) -> Result<Values, Fault> {
        let parameters = self.parameters.unwrap_or_default();
        parameters.refuse_shared_memory()?;
        match (self.data, count("binary_data_size", parameters.binary_data_size)?) {
            (Some(_), Some(_)) => Err(place.wrong("it has both data and binary_data_size")),
            (None, None) => Err(place.wrong("it has neither data nor binary_data_size")),
            (Some(data), None) => {
                numbers::values(data.get(), place.element, &place.shape).map_err(|error| place.wrong(error))
            }
            (None, Some(_)) if !has_binary => Err(place.wrong(
                "it has a binary_data_size, but the request has no header Inference-Header-Content-Length",
            )),
            (None, Some(size)) => {
                let Some((bytes, others)) = rest.split_at_checked(size) else {
                    let text =
                        format!("its binary_data_size is {size}, but only {} bytes are left", rest.len());
                    return Err(place.wrong(text));
                };
                *rest = others;
                binary::values(bytes, place.element, place.count).map_err(|error| place.wrong(error))
            }
        }
    }
}

// === impl RequestOutput ===

impl RequestOutput<'_> {
    fn wish(self) -> Result<Wish, Fault> {
        let parameters = self.parameters.unwrap_or_default();
        parameters.refuse_shared_memory()?;
        let binary = flag("binary_data", parameters.binary_data)?;
        let classes = count("classification", parameters.classification)?.unwrap_or(0);
        Ok(Wish { name: self.name, binary, classes })
    }
}

// === impl Parameters ===

impl Parameters<'_> {
    fn refuse_shared_memory(self) -> Result<(), Fault> {
        if self.shared_memory_region.is_some() { Err(super::no_shared_memory()) } else { Ok(()) }
    }

    fn refuse_sequence(self) -> Result<(), Fault> {
        match self.sequence_id.map(RawValue::get) {
            None | Some("0" | "\"\"") => Ok(()),
            Some(_) => Err(super::no_sequence()),
        }
    }
}

fn flag(name: &str, value: Option<&RawValue>) -> Result<Option<bool>, Fault> {
    read_as(value, || format!("the parameter {name} is {}, but must be true or false", shown(value)))
}

fn count(name: &str, value: Option<&RawValue>) -> Result<Option<usize>, Fault> {
    read_as(value, || format!("the parameter {name} is {}, but must be a whole number from 0", shown(value)))
}

fn read_as<'a, T: Deserialize<'a>>(
    value: Option<&'a RawValue>,
    wrong: impl FnOnce() -> String,
) -> Result<Option<T>, Fault> {
    value.map(|value| serde_json::from_str(value.get())).transpose().map_err(|_| Fault::Bad(wrong()))
}

/// A value as it is written, as far as it is short.
fn shown(value: Option<&RawValue>) -> String {
    value.map(|value| value.get().chars().take(40).collect()).unwrap_or_default()
}

// === impl ResponseOutput ===

impl<'a> ResponseOutput<'a> {
    fn new(told: &'a Told, bytes: Option<&Vec<u8>>) -> Result<Self, Fault> {
        let data = match bytes {
            Some(_) => None,
            None => Some(Data::new(told)?),
        };
        let parameters = bytes.map(|bytes| BinarySize { binary_data_size: bytes.len() });
        Ok(Self { name: &told.name, datatype: told.datatype(), shape: &told.shape, parameters, data })
    }
}

// === impl Data ===

impl<'a> Data<'a> {
    /// JSON has no word for NaN and infinities.
    fn new(told: &'a Told) -> Result<Self, Fault> {
        let bad = match &told.content {
            Content::Values(Values::F16(values)) => {
                values.iter().position(|bits| !f16::from_bits(*bits).is_finite())
            }
            Content::Values(Values::F32(values)) => values.iter().position(|value| !value.is_finite()),
            Content::Values(Values::F64(values)) => values.iter().position(|value| !value.is_finite()),
            _ => None,
        };
        match bad {
            None => Ok(Self(&told.content)),
            Some(index) => Err(Fault::Bad(format!(
                "the output {:?} is not finite at index {index}, which JSON cannot tell; ask for it with the parameter \
                 binary_data",
                told.name
            ))),
        }
    }
}

impl Serialize for Data<'_> {
    /// Numbers of 16 and 32 bits are written with the digits of 64: who reads them so has the very same number.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Content::Classes(classes) => serializer.collect_seq(classes),
            Content::Values(values) => match values {
                Values::Bool(values) => serializer.collect_seq(values),
                Values::U8(values) => serializer.collect_seq(values),
                Values::U16(values) => serializer.collect_seq(values),
                Values::U32(values) => serializer.collect_seq(values),
                Values::U64(values) => serializer.collect_seq(values),
                Values::I8(values) => serializer.collect_seq(values),
                Values::I16(values) => serializer.collect_seq(values),
                Values::I32(values) => serializer.collect_seq(values),
                Values::I64(values) => serializer.collect_seq(values),
                Values::F16(values) => {
                    serializer.collect_seq(values.iter().map(|bits| f16::from_bits(*bits).to_f64()))
                }
                Values::F32(values) => serializer.collect_seq(values.iter().map(|value| f64::from(*value))),
                Values::F64(values) => serializer.collect_seq(values),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use shunt_infer::{Element, Port};

    use super::*;

    fn model() -> Description {
        let port = |name: &str, element, shape: &[Option<usize>]| Port {
            name: name.to_owned(),
            element,
            shape: shape.to_vec(),
        };
        Description {
            backend: "test",
            device: "cpu",
            inputs: vec![
                port("pixels", Element::U8, &[None, Some(2), Some(2)]),
                port("scale", Element::F32, &[Some(2)]),
            ],
            outputs: vec![port("out", Element::F32, &[None, Some(2)])],
        }
    }

    fn parse(body: &[u8], header: Option<usize>) -> Result<Call, String> {
        read(&Bytes::copy_from_slice(body), header, &model()).map_err(|fault| fault.to_string())
    }

    fn pixels(more: &Value) -> Value {
        let mut input = json!({"name": "pixels", "shape": [1, 2, 2], "datatype": "UINT8"});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        input
    }

    fn scale() -> Value {
        json!({"name": "scale", "shape": [2], "datatype": "FP32", "data": [0.5, -1]})
    }

    fn request(pixels: &Value) -> Value {
        json!({"inputs": [scale(), pixels]})
    }

    fn error(request: &Value) -> String {
        parse(request.to_string().as_bytes(), None).unwrap_err()
    }

    fn tensors() -> Vec<Tensor> {
        vec![
            Tensor { shape: vec![1, 2, 2], values: Values::U8(vec![1, 2, 3, 4]) },
            Tensor { shape: vec![2], values: Values::F32(vec![0.5, -1.0]) },
        ]
    }

    /// A request with one tensor in each form, and how much of it is JSON.
    fn mixed() -> (Vec<u8>, usize) {
        let json = request(&pixels(&json!({"parameters": {"binary_data_size": 4}}))).to_string();
        let length = json.len();
        ([json.as_bytes(), &[1, 2, 3, 4]].concat(), length)
    }

    #[test]
    fn the_forms_of_a_tensor_are_the_same() {
        let (mixed, header) = mixed();
        let call = parse(&mixed, Some(header)).unwrap();
        assert_eq!(call, Call { id: None, tensors: tensors(), wishes: vec![], binary: false });
        for data in [json!([1, 2, 3, 4]), json!([[[1, 2], [3, 4]]])] {
            let call = parse(request(&pixels(&json!({"data": data}))).to_string().as_bytes(), None).unwrap();
            assert_eq!(call.tensors, tensors());
        }
    }

    #[test]
    fn id_outputs_and_parameters_are_read() {
        let mut whole = request(&pixels(&json!({"data": [1, 2, 3, 4], "parameters": null})));
        whole["id"] = json!("seven");
        whole["parameters"] =
            json!({"binary_data_output": true, "priority": 3, "mine": {"a": 1}, "sequence_id": ""});
        whole["outputs"] =
            json!([{"name": "out", "parameters": {"classification": 2, "binary_data": false}}]);
        let call = parse(whole.to_string().as_bytes(), None).unwrap();
        assert_eq!((call.id.as_deref(), call.binary), (Some("seven"), true));
        assert_eq!(call.wishes, [Wish { name: "out".to_owned(), binary: Some(false), classes: 2 }]);
    }

    #[test]
    fn every_contradiction_is_told() {
        let of = |text: &str| format!("the input \"pixels\": {text}");
        for (input, expected) in [
            (json!({}), "it has neither data nor binary_data_size"),
            (
                json!({"data": [1], "parameters": {"binary_data_size": 4}}),
                "it has both data and binary_data_size",
            ),
            (
                json!({"parameters": {"binary_data_size": 4}}),
                "it has a binary_data_size, but the request has no header Inference-Header-Content-Length",
            ),
            (json!({"data": [1, 2, 300, 4]}), "the value 300 at index 2 is out of the range of UINT8"),
            (json!({"data": [[[1, 2], [3, null]]]}), "the value null at index 3 is no UINT8"),
            (json!({"data": [1, 2, 3]}), "it has 3 values, but its shape [1, 2, 2] needs 4"),
        ] {
            assert_eq!(error(&request(&pixels(&input))), of(expected));
        }
        let parameters = pixels(&json!({"parameters": {"binary_data_size": -4}}));
        assert_eq!(
            error(&request(&parameters)),
            "the parameter binary_data_size is -4, but must be a whole number from 0"
        );
        let long = pixels(&json!({"parameters": {"binary_data_size": vec![1; 100]}}));
        let told = error(&request(&long));
        assert!(told.len() < 120 && told.contains("[1,1,1,"), "{told}");
        let shared = pixels(&json!({"parameters": {"shared_memory_region": "r"}}));
        assert!(error(&request(&shared)).contains("shared memory"));
        let mut sequence = request(&pixels(&json!({"data": [1, 2, 3, 4]})));
        sequence["parameters"] = json!({"sequence_id": 9});
        assert!(error(&sequence).contains("state"));
        assert!(error(&json!({"inputs": []})).starts_with("the input \"pixels\" is missing"));
        assert!(error(&json!({})).starts_with("the request is no such JSON: missing field `inputs`"));
        assert!(error(&json!([1])).starts_with("the request is no such JSON"));
    }

    #[test]
    fn a_header_that_lies_is_refused() {
        let (body, header) = mixed();
        let length = body.len();
        assert_eq!(
            parse(&body, Some(length + 1)).unwrap_err(),
            format!("the header tells of {} bytes of JSON, but the body has {length}", length + 1)
        );
        assert!(parse(&body, Some(header - 1)).unwrap_err().starts_with("the request is no such JSON"));
        assert!(parse(&body, Some(header + 1)).unwrap_err().starts_with("the request is no such JSON"));
        assert!(parse(&body, None).unwrap_err().starts_with("the request is no such JSON"));
        assert!(parse(&body, Some(0)).unwrap_err().contains("models with one input"));
        assert_eq!(
            parse(&[&body[..], &[9, 9]].concat(), Some(header)).unwrap_err(),
            "2 bytes follow that no input tells of"
        );
        assert_eq!(
            parse(&body[..length - 1], Some(header)).unwrap_err(),
            "the input \"pixels\": its binary_data_size is 4, but only 3 bytes are left"
        );
    }

    #[test]
    fn a_value_that_json_does_not_have_is_named_with_its_index() {
        for (word, index) in [("NaN", 2), ("-Infinity", 0), ("Infinity", 3)] {
            let values: Vec<_> = (0..4).map(|at| if at == index { word } else { "1" }).collect();
            let text = format!(
                "{{\"inputs\":\n[{{\"name\":\"pixels\",\"shape\":[1,2,2],\"datatype\":\"UINT8\",\"data\":[{}]}}]}}",
                values.join(", ")
            );
            let error = parse(text.as_bytes(), None).unwrap_err();
            let word = word.trim_start_matches('-');
            assert!(error.starts_with(&format!("the value {word} at index {index} (byte ")), "{error}");
        }
    }

    #[test]
    fn an_answer_has_its_binary_tensors_behind_the_json() {
        let told = |binary, content| Told { name: "out".to_owned(), shape: vec![2], binary, content };
        let values = Content::Values(Values::F32(vec![0.1, 1.0]));
        let written = write("m", Some("7"), &[told(true, values.clone()), told(false, values)]).unwrap();
        let (json, rest) = written.body.split_at(written.header.unwrap());
        assert_eq!(rest, [0.1_f32.to_le_bytes(), 1.0_f32.to_le_bytes()].concat());
        let json: Value = serde_json::from_slice(json).unwrap();
        assert_eq!(json["id"], "7");
        assert_eq!(json["outputs"][0]["parameters"], json!({"binary_data_size": 8}));
        assert_eq!(json["outputs"][1]["data"][0].as_f64(), Some(f64::from(0.1_f32)));
        let classes = Content::Classes(vec!["1:0:ant".to_owned()]);
        let plain = write("m", None, &[told(false, classes)]).unwrap();
        assert_eq!(plain.header, None);
        assert_eq!(
            String::from_utf8(plain.body).unwrap(),
            r#"{"model_name":"m","model_version":"1","outputs":[{"name":"out","datatype":"BYTES","shape":[2],"data":["1:0:ant"]}]}"#
        );
        let nan = told(false, Content::Values(Values::F32(vec![0.0, f32::NAN])));
        assert!(write("m", None, &[nan.clone()]).unwrap_err().to_string().contains("not finite at index 1"));
        assert!(write("m", None, &[Told { binary: true, ..nan }]).is_ok());
    }

    proptest! {
        /// Whatever is changed in a good request, and whatever the header tells: an answer, never a panic; and what is
        /// taken fits the model.
        #[test]
        fn mutated_requests_are_answered(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
            header in prop_oneof![Just(None), Just(Some(0)), (0_usize..400).prop_map(Some), Just(Some(usize::MAX))],
            keep_header: bool,
        ) {
            let (mut body, good) = mixed();
            for (place, byte, kind) in changes {
                if body.is_empty() { break; }
                let place = place.index(body.len());
                match kind {
                    0 => body[place] = byte,
                    1 => body.insert(place, byte),
                    2 => { body.remove(place); }
                    _ => body.truncate(place),
                }
            }
            let header = if keep_header { Some(good) } else { header };
            if let Ok(call) = parse(&body, header) {
                let ports = model().inputs;
                for (tensor, port) in call.tensors.iter().zip(&ports) {
                    prop_assert!(tensor.is_whole() && port.takes(&tensor.shape) && tensor.values.element() == port.element);
                }
            }
        }

        #[test]
        fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..300), header in prop::option::of(0_usize..310)) {
            parse(&body, header).ok();
        }

        /// Numbers of any arrays, of any type, in any shape.
        #[test]
        fn any_arrays_are_answered(text in "[\\[\\], 0-9eE.+n-]{0,60}", element in 0_usize..12, shape in prop::collection::vec(1_usize..4, 0..4)) {
            if let Ok(values) = numbers::values(&text, Element::ALL[element], &shape) {
                prop_assert_eq!(values.len(), shape.iter().product::<usize>());
            }
        }

        /// What a client writes in either form is what the model gets.
        #[test]
        fn values_survive_both_forms(values in prop::collection::vec(any::<f32>().prop_filter("finite", |value| value.is_finite()), 1..20)) {
            let text = serde_json::to_string(&values).unwrap();
            let wide = serde_json::to_string(&values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>()).unwrap();
            let bytes = binary::bytes(&Values::F32(values.clone()));
            let bits = |read: Values| match read {
                Values::F32(read) => read.into_iter().map(f32::to_bits).collect::<Vec<_>>(),
                _ => vec![],
            };
            let expected = bits(Values::F32(values.clone()));
            let shape = [values.len()];
            prop_assert_eq!(&bits(numbers::values(&text, Element::F32, &shape).unwrap()), &expected);
            prop_assert_eq!(&bits(numbers::values(&wide, Element::F32, &shape).unwrap()), &expected);
            prop_assert_eq!(&bits(binary::values(&bytes, Element::F32, values.len()).unwrap()), &expected);
        }
    }
}
