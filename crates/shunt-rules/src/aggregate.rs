//! What is computed for a window.

use cel::common::ast::{Expr, LiteralValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    bits,
    event::{Paths, View},
    expression::{self, Expression, ExpressionError, Names},
    sketch::{Distinct, Percentiles, Trend, hash},
    value::{Val, json_number},
};

/// The aggregates, as a rule writes them.
pub const AGGREGATES: &[&str] = &[
    "count()",
    "count(condition)",
    "rate()",
    "rate(condition)",
    "share(condition)",
    "sum(number)",
    "mean(number)",
    "min(number)",
    "max(number)",
    "percentile(number, 95)",
    "distinct(value)",
    "slope(number)",
    "last(value)",
];
/// The longest text that `last` keeps, in bytes.
const LAST: usize = 256;

/// One of a window's values.
#[derive(Debug)]
pub(crate) struct Aggregate {
    pub(crate) name: String,
    function: Function,
    of: Option<Expression>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
    Count,
    Rate,
    Share,
    Sum,
    Mean,
    Min,
    Max,
    Percentile(f64),
    Distinct,
    Slope,
    Last,
}

/// What one event adds to an aggregate.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// Nothing: its value is null.
    None,
    Yes(bool),
    Number(f64),
    Hash(u64),
    Value(Value),
}

/// What a part of a window keeps of an aggregate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Sum {
    Count(u64),
    Share {
        yes: u64,
        all: u64,
    },
    Mean {
        count: u64,
        #[serde(with = "bits")]
        sum: f64,
    },
    /// The least or the greatest.
    Extreme(Option<Bits>),
    Percentiles(Percentiles),
    Distinct(Distinct),
    Trend(Trend),
    /// The newest, and its time.
    Last(Option<(i64, Value)>),
}

/// A number, bit for bit on disk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bits(#[serde(with = "bits")] f64);

// === impl Aggregate ===

impl Aggregate {
    /// Reads `mean(data.score)`.
    pub(crate) fn compile(name: &str, text: &str, paths: &mut Paths) -> Result<Self, ExpressionError> {
        let (tree, source) = expression::parse(text)?;
        let wrong = |message: String| ExpressionError::at(text, 0, message);
        let known = || format!("a value must be one of {}", AGGREGATES.join(", "));
        let Expr::Call(call) = &tree.expr else { return Err(wrong(known())) };
        if call.target.is_some() {
            return Err(wrong(known()));
        }
        let (mut function, least, mut most) = match call.func_name.as_str() {
            "count" => (Function::Count, 0, 1),
            "rate" => (Function::Rate, 0, 1),
            "share" => (Function::Share, 1, 1),
            "sum" => (Function::Sum, 1, 1),
            "mean" => (Function::Mean, 1, 1),
            "min" => (Function::Min, 1, 1),
            "max" => (Function::Max, 1, 1),
            "percentile" => (Function::Percentile(0.0), 2, 2),
            "distinct" => (Function::Distinct, 1, 1),
            "slope" => (Function::Slope, 1, 1),
            "last" => (Function::Last, 1, 1),
            _ => return Err(wrong(known())),
        };
        if !(least..=most).contains(&call.args.len()) {
            return Err(wrong(format!("{} takes {most} values, not {}", call.func_name, call.args.len())));
        }
        if let (Function::Percentile(_), Some(percent)) = (function, call.args.get(1)) {
            let number = match &percent.expr {
                Expr::Literal(LiteralValue::Int(whole)) => Some(*whole.inner() as f64),
                Expr::Literal(LiteralValue::Double(number)) => Some(*number.inner()),
                _ => None,
            };
            let number = number.filter(|number| *number > 0.0 && *number <= 100.0);
            let number =
                number.ok_or_else(|| wrong("the percentage must be a number above 0, to 100".to_owned()))?;
            (function, most) = (Function::Percentile(number), 1);
        }
        let of = call.args.iter().take(most).next();
        let of = of.map(|arg| Expression::compile_part(arg, &source, Names::Event, paths)).transpose()?;
        Ok(Self { name: name.to_owned(), function, of })
    }

    /// What the event adds.
    pub(crate) fn input<'a>(&'a self, view: &View<'a>) -> Result<Input, ExpressionError> {
        let Some(of) = &self.of else { return Ok(Input::Yes(true)) };
        Ok(match self.function {
            Function::Count | Function::Rate | Function::Share => Input::Yes(of.holds(view)?),
            Function::Distinct => match of.evaluate(view)? {
                Val::Null => Input::None,
                Val::Text(text) => Input::Hash(hash(text.as_bytes())),
                other => Input::Hash(hash(other.to_json().to_string().as_bytes())),
            },
            Function::Last => match of.evaluate(view)? {
                Val::Null => Input::None,
                other => {
                    let value = other.to_json();
                    let long = value.as_str().map_or_else(|| value.to_string().len(), str::len) > LAST;
                    Input::Value(if long { Value::String("...".to_owned()) } else { value })
                }
            },
            _ => of.number(view)?.map_or(Input::None, Input::Number),
        })
    }

    /// Nothing yet.
    pub(crate) fn nothing(&self) -> Sum {
        match self.function {
            Function::Count | Function::Rate => Sum::Count(0),
            Function::Share => Sum::Share { yes: 0, all: 0 },
            Function::Sum | Function::Mean => Sum::Mean { count: 0, sum: 0.0 },
            Function::Min | Function::Max => Sum::Extreme(None),
            Function::Percentile(_) => Sum::Percentiles(Percentiles::default()),
            Function::Distinct => Sum::Distinct(Distinct::default()),
            Function::Slope => Sum::Trend(Trend::default()),
            Function::Last => Sum::Last(None),
        }
    }

    pub(crate) fn add(&self, sum: &mut Sum, input: &Input, time_ms: i64) {
        match (sum, input) {
            (Sum::Count(count), Input::Yes(true)) => *count += 1,
            (Sum::Share { yes, all }, Input::Yes(is)) => {
                *yes += u64::from(*is);
                *all += 1;
            }
            (Sum::Mean { count, sum }, Input::Number(number)) => {
                *count += 1;
                *sum += number;
            }
            (Sum::Extreme(extreme), Input::Number(number)) => self.widen(extreme, *number),
            (Sum::Percentiles(percentiles), Input::Number(number)) => percentiles.add(*number),
            (Sum::Distinct(distinct), Input::Hash(hash)) => distinct.add(*hash),
            (Sum::Trend(trend), Input::Number(number)) => trend.add(time_ms as f64 / 1_000.0, *number),
            (Sum::Last(last), Input::Value(value))
                if last.as_ref().is_none_or(|(time, _)| *time <= time_ms) =>
            {
                *last = Some((time_ms, value.clone()));
            }
            _ => {}
        }
    }

    pub(crate) fn merge(&self, sum: &mut Sum, other: &Sum) {
        match (sum, other) {
            (Sum::Count(count), Sum::Count(more)) => *count += more,
            (Sum::Share { yes, all }, Sum::Share { yes: more, all: more_all }) => {
                *yes += more;
                *all += more_all;
            }
            (Sum::Mean { count, sum }, Sum::Mean { count: more, sum: more_sum }) => {
                *count += more;
                *sum += more_sum;
            }
            (Sum::Extreme(extreme), Sum::Extreme(Some(Bits(number)))) => self.widen(extreme, *number),
            (Sum::Percentiles(percentiles), Sum::Percentiles(more)) => percentiles.merge(more),
            (Sum::Distinct(distinct), Sum::Distinct(more)) => distinct.merge(more),
            (Sum::Trend(trend), Sum::Trend(more)) => trend.merge(more),
            (Sum::Last(last), Sum::Last(Some((time, value))))
                if last.as_ref().is_none_or(|(known, _)| known <= time) =>
            {
                *last = Some((*time, value.clone()));
            }
            _ => {}
        }
    }

    fn widen(&self, extreme: &mut Option<Bits>, number: f64) {
        let better = match extreme {
            None => true,
            Some(Bits(known)) if self.function == Function::Min => number < *known,
            Some(Bits(known)) => number > *known,
        };
        if better {
            *extreme = Some(Bits(number));
        }
    }

    /// The value of a window of this length in seconds; null where there is none.
    pub(crate) fn value(&self, sum: &Sum, seconds: f64) -> Value {
        match sum {
            Sum::Count(count) if self.function == Function::Rate => {
                if seconds > 0.0 {
                    json_number(*count as f64 / seconds)
                } else {
                    Value::Null
                }
            }
            Sum::Count(count) => Value::from(*count),
            Sum::Share { all: 0, .. } | Sum::Extreme(None) | Sum::Last(None) => Value::Null,
            Sum::Share { yes, all } => json_number(*yes as f64 / *all as f64),
            Sum::Mean { sum, .. } if self.function == Function::Sum => json_number(*sum),
            Sum::Mean { count: 0, .. } => Value::Null,
            Sum::Mean { count, sum } => json_number(sum / *count as f64),
            Sum::Extreme(Some(Bits(number))) => json_number(*number),
            Sum::Percentiles(percentiles) => match self.function {
                Function::Percentile(percent) => percentiles.at(percent).map_or(Value::Null, json_number),
                _ => Value::Null,
            },
            Sum::Distinct(distinct) => json_number(distinct.count()),
            Sum::Trend(trend) => trend.per_second().map_or(Value::Null, |slope| json_number(slope * 60.0)),
            Sum::Last(Some((_, value))) => value.clone(),
        }
    }

    /// Bytes that it may need in a part of a window.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Sum>()
            + match self.function {
                Function::Percentile(_) => Percentiles::BYTES,
                Function::Distinct => Distinct::BYTES,
                Function::Last => LAST,
                _ => 0,
            }
    }
}
