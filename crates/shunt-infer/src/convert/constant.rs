//! The numbers that a file holds.

use std::borrow::Cow;

use crate::Element;

use super::source::SourceTensor;

/// A constant whose bytes are as many as its shape and type want.
#[derive(Debug)]
pub(super) struct Constant<'a, 'b> {
    tensor: &'b SourceTensor<'a>,
    element: Element,
    bytes: Cow<'b, [u8]>,
}

// === impl Constant ===

impl<'a, 'b> Constant<'a, 'b> {
    /// The tensor's numbers out of these bytes.
    pub(super) fn new(tensor: &'b SourceTensor<'a>, bytes: Cow<'b, [u8]>) -> Result<Self, String> {
        let element = tensor.element.ok_or("its type is not converted")?;
        let wanted = tensor.count().saturating_mul(element.size());
        if bytes.len() != wanted {
            return Err(format!(
                "it has {} bytes where its shape {:?} wants {wanted}",
                bytes.len(),
                tensor.shape
            ));
        }
        Ok(Self { tensor, element, bytes })
    }

    /// The bytes as they are in the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The numbers as the file has them, without scale.
    fn raw<T>(&self, each: impl Fn(f64) -> T) -> Vec<T> {
        match self.element {
            Element::U8 | Element::Bool => self.bytes.iter().map(|byte| each(f64::from(*byte))).collect(),
            Element::I8 => self.bytes.iter().map(|byte| each(f64::from(byte.cast_signed()))).collect(),
            Element::I16 => chunks(&self.bytes, |bytes| each(f64::from(i16::from_le_bytes(bytes)))),
            Element::I32 => chunks(&self.bytes, |bytes| each(f64::from(i32::from_le_bytes(bytes)))),
            Element::I64 => chunks(&self.bytes, |bytes| each(i64::from_le_bytes(bytes) as f64)),
            Element::F32 => chunks(&self.bytes, |bytes| each(f64::from(f32::from_le_bytes(bytes)))),
            Element::F16 => {
                chunks(&self.bytes, |bytes| each(f64::from(half::f16::from_le_bytes(bytes).to_f32())))
            }
            // The reader gives no others.
            Element::U16 | Element::U32 | Element::U64 | Element::F64 => Vec::new(),
        }
    }

    /// Real numbers, of whatever type they are stored as.
    pub(super) fn reals(&self) -> Vec<f32> {
        let Some(quantisation) = &self.tensor.quantisation else { return self.raw(|value| value as f32) };
        if matches!(self.element, Element::F32 | Element::F16) {
            return self.raw(|value| value as f32);
        }
        let inner: usize =
            self.tensor.shape.iter().skip(quantisation.axis.saturating_add(1)).product::<usize>().max(1);
        let channels = quantisation.scales.len();
        let raw = self.raw(|value| value).into_iter().enumerate();
        raw.map(|(index, value)| {
            let channel = if channels == 1 { 0 } else { index / inner % channels };
            let scale = quantisation.scales.get(channel).copied().unwrap_or(1.0);
            let zero_point = quantisation.zero_points.get(channel).copied().unwrap_or(0);
            (value - zero_point as f64) as f32 * scale
        })
        .collect()
    }

    /// Whole numbers: a shape, axes, a permutation.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        match self.element {
            Element::I32 => Some(chunks(&self.bytes, |bytes| i64::from(i32::from_le_bytes(bytes)))),
            Element::I64 => Some(chunks(&self.bytes, i64::from_le_bytes)),
            _ => None,
        }
    }
}

/// What stands in each so many bytes.
fn chunks<const N: usize, T>(bytes: &[u8], each: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| each(*chunk)).collect()
}

/// The values of a tensor in another order of its axes: axis `i` of the result is axis `order[i]` of the source.
pub(super) fn transposed<T: Copy + Default>(values: &[T], shape: &[usize], order: &[usize]) -> Vec<T> {
    let mut strides = vec![1_usize; shape.len()];
    for index in (0..shape.len().saturating_sub(1)).rev() {
        let after = strides.get(index + 1).copied().unwrap_or(1) * shape.get(index + 1).copied().unwrap_or(1);
        if let Some(stride) = strides.get_mut(index) {
            *stride = after;
        }
    }
    let axes: Vec<(usize, usize)> =
        order.iter().filter_map(|axis| Some((*shape.get(*axis)?, *strides.get(*axis)?))).collect();
    let mut result = Vec::with_capacity(values.len());
    let mut at = vec![0_usize; axes.len()];
    for _ in 0..values.len() {
        let offset: usize = at.iter().zip(&axes).map(|(at, (_, stride))| at * stride).sum();
        result.push(values.get(offset).copied().unwrap_or_default());
        for (at, (length, _)) in at.iter_mut().zip(&axes).rev() {
            *at += 1;
            if *at < *length {
                break;
            }
            *at = 0;
        }
    }
    result
}
