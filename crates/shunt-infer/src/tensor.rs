//! Values with a shape: what goes into a model and what comes out.

use serde::{Deserialize, Serialize};

use crate::{BackendError, Port};

/// Inputs or outputs of more bytes are a mistake of the file that tells their shapes.
pub(crate) const LARGEST: usize = 1 << 31;

/// The type of a tensor's values. Names in catalogs: `f32`, `u8`; in the Open Inference Protocol: `FP32`, `UINT8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// A truth value, a byte each.
    Bool,
    /// 8 bits without sign.
    U8,
    /// 16 bits without sign.
    U16,
    /// 32 bits without sign.
    U32,
    /// 64 bits without sign.
    U64,
    /// 8 bits with sign.
    I8,
    /// 16 bits with sign.
    I16,
    /// 32 bits with sign.
    I32,
    /// 64 bits with sign.
    I64,
    /// 16 bits, floating point (IEEE 754 binary16).
    F16,
    /// 32 bits, floating point.
    #[default]
    F32,
    /// 64 bits, floating point.
    F64,
}

/// The values of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// [`Element::Bool`].
    Bool(Vec<bool>),
    /// [`Element::U8`].
    U8(Vec<u8>),
    /// [`Element::U16`].
    U16(Vec<u16>),
    /// [`Element::U32`].
    U32(Vec<u32>),
    /// [`Element::U64`].
    U64(Vec<u64>),
    /// [`Element::I8`].
    I8(Vec<i8>),
    /// [`Element::I16`].
    I16(Vec<i16>),
    /// [`Element::I32`].
    I32(Vec<i32>),
    /// [`Element::I64`].
    I64(Vec<i64>),
    /// [`Element::F16`]: the bits of each.
    F16(Vec<u16>),
    /// [`Element::F32`].
    F32(Vec<f32>),
    /// [`Element::F64`].
    F64(Vec<f64>),
}

/// Values and their shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// The values, last axis fastest; as many as the lengths' product.
    pub values: Values,
}

/// The same expression for each variant of [`Values`].
macro_rules! each {
    ($values:expr, $list:ident => $result:expr) => {
        match $values {
            Values::Bool($list) => $result,
            Values::U8($list) => $result,
            Values::U16($list) | Values::F16($list) => $result,
            Values::U32($list) => $result,
            Values::U64($list) => $result,
            Values::I8($list) => $result,
            Values::I16($list) => $result,
            Values::I32($list) => $result,
            Values::I64($list) => $result,
            Values::F32($list) => $result,
            Values::F64($list) => $result,
        }
    };
}

/// Zeros for each of a model's inputs, with a length of 1 for each open axis.
///
/// # Errors
///
/// All together they would be larger than two gigabytes: shapes come from files, and not each file is honest.
pub fn zeros(ports: &[Port]) -> Result<Vec<Tensor>, BackendError> {
    let mut room = LARGEST;
    let each = ports.iter().map(|port| {
        let shape: Vec<usize> = port.shape.iter().map(|length| length.unwrap_or(1)).collect();
        let bytes = size(&shape, port.element).filter(|bytes| *bytes <= room);
        let bytes =
            bytes.ok_or_else(|| BackendError(format!("its input {:?} is too large: {port}", port.name)))?;
        room -= bytes;
        let values = Values::zeros(port.element, bytes / port.element.size());
        Ok(Tensor { shape, values })
    });
    each.collect()
}

/// Bytes of a tensor; `None` where they are more than can be counted.
pub(crate) fn size(shape: &[usize], element: Element) -> Option<usize> {
    shape.iter().try_fold(element.size(), |bytes, length| bytes.checked_mul(*length))
}

// === impl Element ===

impl Element {
    /// All, in the order of the Open Inference Protocol's table.
    pub const ALL: [Self; 12] = [
        Self::Bool,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::F16,
        Self::F32,
        Self::F64,
    ];

    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Its name in the Open Inference Protocol, version 2.
    pub fn datatype(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "UINT8",
            Self::U16 => "UINT16",
            Self::U32 => "UINT32",
            Self::U64 => "UINT64",
            Self::I8 => "INT8",
            Self::I16 => "INT16",
            Self::I32 => "INT32",
            Self::I64 => "INT64",
            Self::F16 => "FP16",
            Self::F32 => "FP32",
            Self::F64 => "FP64",
        }
    }

    /// The type of that name in the Open Inference Protocol.
    pub fn from_datatype(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|element| element.datatype() == name)
    }
}

// === impl Values ===

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        each!(self, list => list.len())
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their type.
    pub fn element(&self) -> Element {
        match self {
            Self::Bool(_) => Element::Bool,
            Self::U8(_) => Element::U8,
            Self::U16(_) => Element::U16,
            Self::U32(_) => Element::U32,
            Self::U64(_) => Element::U64,
            Self::I8(_) => Element::I8,
            Self::I16(_) => Element::I16,
            Self::I32(_) => Element::I32,
            Self::I64(_) => Element::I64,
            Self::F16(_) => Element::F16,
            Self::F32(_) => Element::F32,
            Self::F64(_) => Element::F64,
        }
    }

    /// So many zeros.
    pub fn zeros(element: Element, count: usize) -> Self {
        match element {
            Element::Bool => Self::Bool(vec![false; count]),
            Element::U8 => Self::U8(vec![0; count]),
            Element::U16 => Self::U16(vec![0; count]),
            Element::U32 => Self::U32(vec![0; count]),
            Element::U64 => Self::U64(vec![0; count]),
            Element::I8 => Self::I8(vec![0; count]),
            Element::I16 => Self::I16(vec![0; count]),
            Element::I32 => Self::I32(vec![0; count]),
            Element::I64 => Self::I64(vec![0; count]),
            Element::F16 => Self::F16(vec![0; count]),
            Element::F32 => Self::F32(vec![0.0; count]),
            Element::F64 => Self::F64(vec![0.0; count]),
        }
    }
}

// === impl Tensor ===

impl Tensor {
    /// The values as 32-bit floating point numbers.
    pub fn into_f32(self) -> Vec<f32> {
        match self.values {
            Values::Bool(values) => values.into_iter().map(|value| f32::from(u8::from(value))).collect(),
            Values::U8(values) => values.into_iter().map(f32::from).collect(),
            Values::U16(values) => values.into_iter().map(f32::from).collect(),
            Values::U32(values) => values.into_iter().map(|value| value as f32).collect(),
            Values::U64(values) => values.into_iter().map(|value| value as f32).collect(),
            Values::I8(values) => values.into_iter().map(f32::from).collect(),
            Values::I16(values) => values.into_iter().map(f32::from).collect(),
            Values::I32(values) => values.into_iter().map(|value| value as f32).collect(),
            Values::I64(values) => values.into_iter().map(|value| value as f32).collect(),
            Values::F16(values) => {
                values.into_iter().map(|bits| half::f16::from_bits(bits).to_f32()).collect()
            }
            Values::F32(values) => values,
            Values::F64(values) => values.into_iter().map(|value| value as f32).collect(),
        }
    }

    /// Are there as many values as the shape says?
    pub fn is_whole(&self) -> bool {
        self.shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length))
            == Some(self.values.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_name_in_the_open_inference_protocol_and_its_zeros() {
        for element in Element::ALL {
            assert_eq!(Element::from_datatype(element.datatype()), Some(element));
            assert_eq!(Values::zeros(element, 3).element(), element);
            assert_eq!(Tensor { shape: vec![3], values: Values::zeros(element, 3) }.into_f32(), [0.0; 3]);
        }
        assert_eq!(Element::from_datatype("BYTES"), None);
    }

    #[test]
    fn zeros_are_made_for_all_inputs_or_refused_where_the_shapes_are_out_of_proportion() {
        let port = |shape: &[Option<usize>]| Port {
            name: "x".to_owned(),
            element: Element::F32,
            shape: shape.to_vec(),
        };
        let made = zeros(&[port(&[None, Some(3)]), port(&[])]).unwrap();
        assert_eq!(made[0], Tensor { shape: vec![1, 3], values: Values::F32(vec![0.0; 3]) });
        assert_eq!(made[1].values.len(), 1);
        for shape in [&[Some(1 << 20), Some(1 << 20)][..], &[Some(usize::MAX), Some(2)], &[Some(1 << 30)]] {
            let error = zeros(&[port(&[None]), port(shape)]).unwrap_err().to_string();
            assert!(error.contains("its input \"x\" is too large: FP32 ["), "{error}");
        }
    }

    #[test]
    fn a_shape_whose_product_overflows_is_not_whole() {
        let tensor = Tensor { shape: vec![usize::MAX, 2], values: Values::U8(vec![]) };
        assert!(!tensor.is_whole());
        assert!(Tensor { shape: vec![0, 2], values: Values::U8(vec![]) }.is_whole());
    }
}
