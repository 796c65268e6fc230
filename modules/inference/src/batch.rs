//! Requests put together along the first axis, and their answers taken apart.

use shunt_infer::{Tensor, Values};

/// The same expression for each variant of [`Values`], with the lists of one or two of them.
macro_rules! each {
    ($values:expr, $list:ident => $result:expr) => {
        each!(@one $values, $list => $result; Bool U8 U16 U32 U64 I8 I16 I32 I64 F16 F32 F64)
    };
    (@one $values:expr, $list:ident => $result:expr; $($variant:ident)*) => {
        match $values {
            $(Values::$variant($list) => Values::$variant($result),)*
        }
    };
}

/// Adds the values of one list to another of the same type; otherwise says that they do not fit.
macro_rules! append {
    ($to:expr, $from:expr; $($variant:ident)*) => {
        match ($to, $from) {
            $((Values::$variant(to), Values::$variant(from)) => { to.extend_from_slice(from); true })*
            _ => false,
        }
    };
}

/// The length of the first axis, which all inputs of a request must share.
pub(crate) fn rows(inputs: &[Tensor]) -> Option<usize> {
    let rows = *inputs.first()?.shape.first()?;
    inputs.iter().all(|input| input.shape.first() == Some(&rows)).then_some(rows)
}

/// Have two requests the same types and shapes beyond the first axis?
pub(crate) fn alike(left: &[Tensor], right: &[Tensor]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).all(|(left, right)| {
            left.values.element() == right.values.element() && left.shape.get(1..) == right.shape.get(1..)
        })
}

/// One tensor for each input with all requests' rows, and how many rows are whose. Nothing where they do not fit.
pub(crate) fn join(requests: &[&[Tensor]]) -> Option<(Vec<Tensor>, Vec<usize>)> {
    let rows = requests.iter().map(|inputs| rows(inputs)).collect::<Option<Vec<_>>>()?;
    let total = rows.iter().sum();
    let (first, others) = requests.split_first()?;
    let mut joined = Vec::with_capacity(first.len());
    for (index, input) in first.iter().enumerate() {
        let more = others.iter().filter_map(|inputs| inputs.get(index));
        let count: usize = more.map(|input| input.values.len()).sum();
        let mut values = each!(&input.values, list => {
            let mut all = Vec::with_capacity(list.len() + count);
            all.extend_from_slice(list);
            all
        });
        for inputs in others {
            let more = inputs.get(index)?;
            if more.shape.get(1..) != input.shape.get(1..) {
                return None;
            }
            if !append!(&mut values, &more.values; Bool U8 U16 U32 U64 I8 I16 I32 I64 F16 F32 F64) {
                return None;
            }
        }
        let mut shape = input.shape.clone();
        *shape.first_mut()? = total;
        joined.push(Tensor { shape, values });
    }
    Some((joined, rows))
}

/// The outputs of each request. Nothing where an output has not as many rows as all requests together.
pub(crate) fn split(outputs: &[Tensor], rows: &[usize]) -> Option<Vec<Vec<Tensor>>> {
    let total: usize = rows.iter().sum();
    if outputs.iter().any(|output| output.shape.first() != Some(&total) || !output.is_whole()) {
        return None;
    }
    let mut from = 0;
    let mut answers = Vec::with_capacity(rows.len());
    for &count in rows {
        let of_request = outputs.iter().map(|output| {
            let row = output.values.len() / total.max(1);
            let range = from * row..(from + count) * row;
            let mut shape = output.shape.clone();
            *shape.first_mut()? = count;
            let values = each!(&output.values, list => list.get(range)?.to_vec());
            Some(Tensor { shape, values })
        });
        answers.push(of_request.collect::<Option<Vec<_>>>()?);
        from += count;
    }
    Some(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: &[usize], from: f32) -> Tensor {
        let count: usize = shape.iter().product();
        Tensor {
            shape: shape.to_vec(),
            values: Values::F32((0..count).map(|index| from + index as f32).collect()),
        }
    }

    #[test]
    fn what_is_put_together_comes_apart_as_it_was() {
        let requests =
            [vec![floats(&[1, 2, 2], 0.0)], vec![floats(&[3, 2, 2], 10.0)], vec![floats(&[1, 2, 2], 50.0)]];
        let slices: Vec<&[Tensor]> = requests.iter().map(|request| &request[..]).collect();
        let (joined, rows) = join(&slices).unwrap();
        assert_eq!((joined[0].shape.as_slice(), rows.as_slice()), (&[5, 2, 2][..], &[1, 3, 1][..]));
        assert!(joined[0].is_whole());
        assert_eq!(split(&joined, &rows).unwrap(), requests);
    }

    #[test]
    fn what_differs_beyond_the_first_axis_or_in_type_is_not_put_together() {
        let (one, other) = ([floats(&[1, 2], 0.0)], [floats(&[1, 3], 0.0)]);
        let bytes = [Tensor { shape: vec![1, 2], values: Values::U8(vec![1, 2]) }];
        assert!(!alike(&one, &other) && !alike(&one, &bytes) && alike(&one, &[floats(&[4, 2], 0.0)]));
        assert_eq!(join(&[&one, &other]), None);
        assert_eq!(join(&[&one, &bytes]), None);
        assert_eq!(join(&[&[floats(&[], 0.0)]]), None);
    }

    #[test]
    fn outputs_with_other_rows_are_not_taken_apart() {
        assert_eq!(split(&[floats(&[1, 4], 0.0)], &[1, 1]), None);
        assert_eq!(split(&[floats(&[2, 4], 0.0)], &[1, 1]).unwrap().len(), 2);
    }
}
