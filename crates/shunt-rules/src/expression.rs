//! Expressions in CEL: the crate `cel` reads them, here they are checked, compiled once and evaluated within limits.
//!
//! What may be written: literals, lists, fields, `has`, `in`, `? :`, `&& || !`, comparisons, arithmetic, the macros
//! `all`, `exists`, `exists_one`, `map`, `filter`, and the functions of [`FUNCTIONS`]. Where CEL gives a value, the
//! same value comes out here (a test compares). Beyond CEL, whole numbers and others may be mixed in arithmetic: JSON
//! writes 5 and 5.0 for the same number, so a rule cannot know which one a source will send.

use std::{cmp::Ordering, rc::Rc};

use cel::{
    common::ast::{ComprehensionExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators},
    parser::Parser,
};

use crate::{
    event::{Attribute, Paths, View},
    value::{List, Val},
};

/// The longest expression, in characters.
pub const MAX_LENGTH: usize = 2_000;
/// The deepest nesting of an expression.
pub const MAX_DEPTH: usize = 48;
/// The most steps of one evaluation: one for each part looked at, put into a list or compared,
/// and one for every 16 bytes of text in them.
pub const MAX_STEPS: u32 = 20_000;
/// The functions that may be called.
pub const FUNCTIONS: &[&str] = &[
    "size(x)",
    "contains",
    "startsWith",
    "endsWith",
    "int(x)",
    "double(x)",
    "string(x)",
    "bool(x)",
    "math.abs(x)",
    "math.ceil(x)",
    "math.floor(x)",
    "math.round(x)",
    "math.greatest(x, ...)",
    "math.least(x, ...)",
];

/// What is wrong with an expression, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (line {line}, column {column} of the expression)")]
pub struct ExpressionError {
    /// What is wrong.
    pub message: String,
    /// Its line in the expression, from 1.
    pub line: u32,
    /// Its column, from 1, in characters.
    pub column: u32,
}

/// The names that an expression may use.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Names<'a> {
    /// Those of an event.
    Event,
    /// Those of a window's result, by number.
    Window(&'a [String]),
}

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Expression {
    text: String,
    root: Node,
}

/// An evaluation that went wrong: what, and where in the text (a byte).
#[derive(Debug)]
pub(crate) struct Fault {
    what: What,
    at: u32,
}

#[derive(Debug)]
enum What {
    NoField(String),
    NoOverload(&'static str, &'static str, &'static str),
    NoSuch(&'static str, &'static str),
    Overflow,
    Zero,
    Bounds(i64, usize),
    Unreadable(&'static str, String),
    Steps,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Int,
    Double,
    Text,
    Bool,
    Abs,
    Ceil,
    Floor,
    Round,
    Greatest,
    Least,
}

#[derive(Debug)]
enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    /// A field in the event's data, by the number of the way to it.
    Data(usize, u32),
    HasData(usize, u32),
    Attribute(Attribute),
    Variable(usize),
    /// A variable of a macro, by its depth.
    Local(usize),
    Field(Box<Node>, String, u32),
    Has(Box<Node>, String, u32),
    Index(Box<Node>, Box<Node>, u32),
    And(Box<Node>, Box<Node>, u32),
    Or(Box<Node>, Box<Node>, u32),
    Not(Box<Node>, u32),
    Negate(Box<Node>, u32),
    Choose(Box<[Node; 3]>, u32),
    Binary(Operator, Box<Node>, Box<Node>, u32),
    Call(Function, Vec<Node>, u32),
    List(Vec<Node>),
    Fold(Box<Fold>, u32),
}

/// A macro over a list, as CEL spells it.
#[derive(Debug)]
struct Fold {
    range: Node,
    start: Node,
    condition: Node,
    step: Node,
    result: Node,
    /// `all` and `exists`: an error of one element counts only where no other element decides.
    logical: Option<bool>,
    /// `map` and `filter`: the step adds to a list; the condition of `filter`, and what is added.
    append: Option<(Option<Node>, Vec<Node>)>,
}

/// Compiles.
struct Compiler<'a> {
    names: Names<'a>,
    paths: &'a mut Paths,
    source: &'a SourceInfo,
    locals: Vec<String>,
}

/// One evaluation.
struct Run<'r, 'a> {
    view: &'r View<'a>,
    locals: Vec<Val<'a>>,
    steps: u32,
}

// === impl ExpressionError ===

impl ExpressionError {
    /// At this byte of the text.
    pub(crate) fn at(text: &str, byte: usize, message: impl Into<String>) -> Self {
        let before = text.get(..byte.min(text.len())).unwrap_or(text);
        let line = before.matches('\n').count() as u32 + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u32 + 1;
        Self { message: message.into(), line, column }
    }
}

// === impl Expression ===

impl Expression {
    /// Compiles a text.
    pub(crate) fn compile(text: &str, names: Names<'_>, paths: &mut Paths) -> Result<Self, ExpressionError> {
        let (tree, source) = parse(text)?;
        let root = Compiler { names, paths, source: &source, locals: Vec::new() }.compile(&tree, 0)?;
        Ok(Self { text: text.to_owned(), root })
    }

    /// Compiles a part of a parsed text.
    pub(crate) fn compile_part(
        tree: &IdedExpr,
        source: &SourceInfo,
        names: Names<'_>,
        paths: &mut Paths,
    ) -> Result<Self, ExpressionError> {
        let root = Compiler { names, paths, source, locals: Vec::new() }.compile(tree, 0)?;
        Ok(Self { text: source.source.clone(), root })
    }

    /// Its value.
    pub(crate) fn evaluate<'a>(&'a self, view: &View<'a>) -> Result<Val<'a>, ExpressionError> {
        let mut run = Run { view, locals: Vec::new(), steps: 0 };
        run.evaluate(&self.root).map_err(|fault| fault.tell(&self.text))
    }

    /// Does it hold? It must be true or false.
    pub(crate) fn holds<'a>(&'a self, view: &View<'a>) -> Result<bool, ExpressionError> {
        match self.evaluate(view)? {
            Val::Bool(holds) => Ok(holds),
            other => {
                let message = format!("it must be true or false, but is {}", article(other.type_name()));
                Err(ExpressionError::at(&self.text, 0, message))
            }
        }
    }

    /// The number that it is; nothing where it is null.
    pub(crate) fn number<'a>(&'a self, view: &View<'a>) -> Result<Option<f64>, ExpressionError> {
        let value = self.evaluate(view)?;
        match (value.as_number(), &value) {
            (Some(number), _) => Ok(Some(number)),
            (None, Val::Null) => Ok(None),
            (None, Val::Bool(yes)) => Ok(Some(f64::from(u8::from(*yes)))),
            (None, other) => {
                let message = format!("it must be a number, but is {}", article(other.type_name()));
                Err(ExpressionError::at(&self.text, 0, message))
            }
        }
    }
}

/// Reads a text as CEL, within the limits.
pub(crate) fn parse(text: &str) -> Result<(IdedExpr, SourceInfo), ExpressionError> {
    let length = text.chars().count();
    if length > MAX_LENGTH {
        let message = format!("the expression has {length} characters, {MAX_LENGTH} are allowed");
        return Err(ExpressionError::at(text, 0, message));
    }
    if text.trim().is_empty() {
        return Err(ExpressionError::at(text, 0, "the expression is empty"));
    }
    // Before the parser, which works on its own stack.
    if let Some(byte) = deep_at(text) {
        return Err(too_deep(text, byte));
    }
    let parser = Parser::new().max_recursion_depth(8 * MAX_DEPTH as u16).error_recovery_limit(1);
    parser.parse_with_source_info(text).map_err(|errors| {
        let first = errors.errors.into_iter().next();
        let (place, message) =
            first.map_or(((1, 1), "it cannot be read".to_owned()), |error| (error.pos, error.msg));
        let number = |number: isize| u32::try_from(number).unwrap_or(0);
        ExpressionError { message, line: number(place.0).max(1), column: number(place.1).max(1) }
    })
}

/// The byte at which a text is nested too deep by its brackets, its `?`, and the signs before an operand.
fn deep_at(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    // Of each open bracket the level before it and what it has added; the signs before the next operand.
    let (mut open, mut level, mut signs, mut sum) = (Vec::<(usize, usize)>::new(), 0, 0, 0);
    let mut byte = 0;
    while let Some(sign) = bytes.get(byte) {
        let mut next = byte + 1;
        match sign {
            b'\'' | b'"' => {
                signs = 0;
                next = past_quoted(bytes, byte);
            }
            b'/' if bytes.get(next) == Some(&b'/') => {
                let rest = bytes.get(next..).unwrap_or_default();
                next += rest.iter().position(|sign| *sign == b'\n').unwrap_or(rest.len());
            }
            b'(' | b'[' | b'{' => {
                let own = level + signs + 1;
                sum += own;
                open.push((level, own));
                (level, signs) = (0, 0);
            }
            b')' | b']' | b'}' => {
                let (before, own) = open.pop().unwrap_or((0, 0));
                sum -= own;
                (level, signs) = (before, 0);
            }
            b',' => (level, signs) = (0, 0),
            b'?' => (level, signs) = (level + 1, 0),
            b'!' | b'-' => signs += 1,
            sign if sign.is_ascii_whitespace() => {}
            _ => signs = 0,
        }
        if sum + level + signs > MAX_DEPTH {
            return Some(byte);
        }
        byte = next;
    }
    None
}

/// The byte after the quoted text that begins at this one.
fn past_quoted(bytes: &[u8], start: usize) -> usize {
    let Some(quote) = bytes.get(start) else { return start + 1 };
    let raw = start > 0 && matches!(bytes.get(start - 1), Some(b'r' | b'R'));
    let triple =
        |at: usize| bytes.get(at..at + 3).is_some_and(|signs| signs.iter().all(|sign| sign == quote));
    let long = triple(start);
    let mut at = start + if long { 3 } else { 1 };
    while let Some(sign) = bytes.get(at) {
        match sign {
            b'\\' if !raw => at += 1,
            // Without its end: what follows is looked at.
            b'\n' if !long => return at,
            sign if sign == quote && !long => return at + 1,
            _ if long && triple(at) => return at + 3,
            _ => {}
        }
        at += 1;
    }
    at
}

fn too_deep(text: &str, byte: usize) -> ExpressionError {
    ExpressionError::at(text, byte, format!("it is nested deeper than the {MAX_DEPTH} levels allowed"))
}

/// The names of a plain way: `data.a.b` is `data`, `a`, `b`.
fn way(tree: &IdedExpr) -> Option<(&str, Vec<String>)> {
    match &tree.expr {
        Expr::Ident(name) => Some((name, Vec::new())),
        Expr::Select(select) if !select.test => {
            let (root, mut names) = way(&select.operand)?;
            names.push(select.field.clone());
            Some((root, names))
        }
        _ => None,
    }
}

// === impl Compiler ===

impl Compiler<'_> {
    fn error(&self, tree: &IdedExpr, message: impl Into<String>) -> ExpressionError {
        ExpressionError::at(&self.source.source, self.at(tree) as usize, message)
    }

    fn at(&self, tree: &IdedExpr) -> u32 {
        self.source.offset_for(tree.id).map_or(0, |(start, _)| start)
    }

    fn compile(&mut self, tree: &IdedExpr, depth: usize) -> Result<Node, ExpressionError> {
        if depth > MAX_DEPTH {
            return Err(too_deep(&self.source.source, self.at(tree) as usize));
        }
        let at = self.at(tree);
        match &tree.expr {
            Expr::Literal(literal) => self.literal(tree, literal),
            Expr::Ident(name) => self.name(tree, name),
            Expr::Select(select) => {
                if let Some((root, mut names)) = way(&select.operand)
                    && root == "data"
                    && matches!(self.names, Names::Event)
                    && !self.locals.iter().any(|local| local == root)
                {
                    names.push(select.field.clone());
                    let path = self.paths.number(&names);
                    return Ok(if select.test { Node::HasData(path, at) } else { Node::Data(path, at) });
                }
                let operand = Box::new(self.compile(&select.operand, depth + 1)?);
                let field = select.field.clone();
                Ok(if select.test { Node::Has(operand, field, at) } else { Node::Field(operand, field, at) })
            }
            Expr::Call(call) => {
                if let Some(node) = self.operator(&call.func_name, &call.args, at, depth)? {
                    return Ok(node);
                }
                self.call(tree, call.target.as_deref(), &call.func_name, &call.args, depth)
            }
            Expr::List(list) => {
                let elements = list.elements.iter().map(|element| self.compile(element, depth + 1));
                Ok(Node::List(elements.collect::<Result<_, _>>()?))
            }
            Expr::Comprehension(macro_) => Ok(Node::Fold(Box::new(self.fold(tree, macro_, depth)?), at)),
            Expr::Map(_) => Err(self.error(tree, "a map cannot be written in a rule")),
            Expr::Struct(_) => Err(self.error(tree, "a structure cannot be written in a rule")),
            Expr::Unspecified => Err(self.error(tree, "it cannot be read")),
        }
    }

    fn literal(&self, tree: &IdedExpr, literal: &LiteralValue) -> Result<Node, ExpressionError> {
        Ok(match literal {
            LiteralValue::Null => Node::Null,
            LiteralValue::Boolean(value) => Node::Bool(*value.inner()),
            LiteralValue::Int(whole) => Node::Int(*whole.inner()),
            LiteralValue::Double(number) => Node::Double(*number.inner()),
            LiteralValue::String(text) => Node::Text(text.inner().to_owned()),
            LiteralValue::UInt(whole) => match i64::try_from(*whole.inner()) {
                Ok(whole) => Node::Int(whole),
                Err(_) => return Err(self.error(tree, "the number is too large")),
            },
            LiteralValue::Bytes(_) => return Err(self.error(tree, "bytes cannot be written in a rule")),
        })
    }

    fn name(&mut self, tree: &IdedExpr, name: &str) -> Result<Node, ExpressionError> {
        if let Some(depth) = self.locals.iter().rposition(|local| local == name) {
            return Ok(Node::Local(depth));
        }
        let known = match self.names {
            Names::Event => {
                if name == "data" {
                    return Ok(Node::Data(self.paths.number(&[]), self.at(tree)));
                }
                if let Some(attribute) = Attribute::named(name) {
                    return Ok(Node::Attribute(attribute));
                }
                let names = Attribute::NAMES.iter().map(|(name, _)| *name);
                names.chain(["data"]).collect::<Vec<_>>().join(", ")
            }
            Names::Window(names) => {
                if let Some(number) = names.iter().position(|known| known == name) {
                    return Ok(Node::Variable(number));
                }
                names.join(", ")
            }
        };
        Err(self.error(tree, format!("there is no {name:?} here; there are {known}")))
    }

    fn operator(
        &mut self,
        name: &str,
        args: &[IdedExpr],
        at: u32,
        depth: usize,
    ) -> Result<Option<Node>, ExpressionError> {
        let mut compile = |index: usize| -> Result<Box<Node>, ExpressionError> {
            match args.get(index) {
                Some(arg) => Ok(Box::new(self.compile(arg, depth + 1)?)),
                None => Ok(Box::new(Node::Null)),
            }
        };
        let binary = match name {
            operators::ADD => Operator::Add,
            operators::SUBSTRACT => Operator::Subtract,
            operators::MULTIPLY => Operator::Multiply,
            operators::DIVIDE => Operator::Divide,
            operators::MODULO => Operator::Modulo,
            operators::EQUALS => Operator::Equal,
            operators::NOT_EQUALS => Operator::NotEqual,
            operators::LESS => Operator::Less,
            operators::LESS_EQUALS => Operator::LessEqual,
            operators::GREATER => Operator::Greater,
            operators::GREATER_EQUALS => Operator::GreaterEqual,
            operators::IN => Operator::In,
            operators::LOGICAL_AND => return Ok(Some(Node::And(compile(0)?, compile(1)?, at))),
            operators::LOGICAL_OR => return Ok(Some(Node::Or(compile(0)?, compile(1)?, at))),
            operators::LOGICAL_NOT => return Ok(Some(Node::Not(compile(0)?, at))),
            operators::NEGATE => return Ok(Some(Node::Negate(compile(0)?, at))),
            operators::INDEX => return Ok(Some(Node::Index(compile(0)?, compile(1)?, at))),
            operators::CONDITIONAL => {
                let parts = [*compile(0)?, *compile(1)?, *compile(2)?];
                return Ok(Some(Node::Choose(Box::new(parts), at)));
            }
            // `exists` asks it of its own accumulator.
            operators::NOT_STRICTLY_FALSE => return Ok(Some(*compile(0)?)),
            _ => return Ok(None),
        };
        Ok(Some(Node::Binary(binary, compile(0)?, compile(1)?, at)))
    }

    fn call(
        &mut self,
        tree: &IdedExpr,
        target: Option<&IdedExpr>,
        name: &str,
        args: &[IdedExpr],
        depth: usize,
    ) -> Result<Node, ExpressionError> {
        let is_math =
            target.is_some_and(|target| matches!(&target.expr, Expr::Ident(name) if name == "math"));
        let (function, least, most) = match (is_math, target.is_some(), name) {
            (false, _, "size") => (Function::Size, 1, 1),
            (false, true, "contains") => (Function::Contains, 2, 2),
            (false, true, "startsWith") => (Function::StartsWith, 2, 2),
            (false, true, "endsWith") => (Function::EndsWith, 2, 2),
            (false, false, "int") => (Function::Int, 1, 1),
            (false, false, "double") => (Function::Double, 1, 1),
            (false, false, "string") => (Function::Text, 1, 1),
            (false, false, "bool") => (Function::Bool, 1, 1),
            (true, _, "abs") => (Function::Abs, 1, 1),
            (true, _, "ceil") => (Function::Ceil, 1, 1),
            (true, _, "floor") => (Function::Floor, 1, 1),
            (true, _, "round") => (Function::Round, 1, 1),
            (true, _, "greatest") => (Function::Greatest, 1, 16),
            (true, _, "least") => (Function::Least, 1, 16),
            _ => {
                let known = FUNCTIONS.join(", ");
                return Err(self.error(tree, format!("there is no function {name:?}; there are {known}")));
            }
        };
        let mut nodes = Vec::new();
        if let Some(target) = target.filter(|_| !is_math) {
            nodes.push(self.compile(target, depth + 1)?);
        }
        for arg in args {
            nodes.push(self.compile(arg, depth + 1)?);
        }
        if !(least..=most).contains(&nodes.len()) {
            let message = format!("{name:?} takes {least} values, not {}", nodes.len());
            return Err(self.error(tree, message));
        }
        Ok(Node::Call(function, nodes, self.at(tree)))
    }

    fn fold(
        &mut self,
        tree: &IdedExpr,
        macro_: &ComprehensionExpr,
        depth: usize,
    ) -> Result<Fold, ExpressionError> {
        if macro_.iter_var2.is_some() {
            return Err(self.error(tree, "a macro takes one variable here"));
        }
        let range = self.compile(&macro_.iter_range, depth + 1)?;
        let start = self.compile(&macro_.accu_init, depth + 1)?;
        // The result so far, then the element: `Run::fold` keeps them in this order.
        self.locals.push(macro_.accu_var.clone());
        self.locals.push(macro_.iter_var.clone());
        let inner = self.fold_inner(macro_, depth);
        self.locals.truncate(self.locals.len().saturating_sub(2));
        let [condition, step, result] = inner?;
        let own = self.locals.len();
        let (logical, append) = match &step {
            Node::And(left, ..) if is_local(left, own) => (Some(false), false),
            Node::Or(left, ..) if is_local(left, own) => (Some(true), false),
            _ => (None, matches!(start, Node::List(ref list) if list.is_empty())),
        };
        let (step, append) = if append { split_append(step, own) } else { (step, None) };
        Ok(Fold { range, start, condition, step, result, logical, append })
    }

    fn fold_inner(&mut self, macro_: &ComprehensionExpr, depth: usize) -> Result<[Node; 3], ExpressionError> {
        Ok([
            self.compile(&macro_.loop_cond, depth + 1)?,
            self.compile(&macro_.loop_step, depth + 1)?,
            self.compile(&macro_.result, depth + 1)?,
        ])
    }
}

fn is_local(node: &Node, number: usize) -> bool {
    matches!(node, Node::Local(local) if *local == number)
}

/// The parts of a step that adds to the list so far: `result + [x]`, or `condition ? result + [x] : result`.
#[expect(clippy::type_complexity, reason = "it is taken apart at once")]
fn split_append(step: Node, own: usize) -> (Node, Option<(Option<Node>, Vec<Node>)>) {
    match step {
        Node::Binary(Operator::Add, left, right, _)
            if is_local(&left, own) && matches!(*right, Node::List(_)) =>
        {
            let added = if let Node::List(added) = *right { added } else { Vec::new() };
            (Node::Null, Some((None, added)))
        }
        Node::Choose(parts, at) => {
            let [condition, then, otherwise] = *parts;
            match split_append(then, own) {
                (_, Some((None, added))) if is_local(&otherwise, own) => {
                    (Node::Null, Some((Some(condition), added)))
                }
                (then, _) => (Node::Choose(Box::new([condition, then, otherwise]), at), None),
            }
        }
        step => (step, None),
    }
}

// === impl Fault ===

impl Fault {
    fn tell(self, text: &str) -> ExpressionError {
        let message = match self.what {
            What::NoField(name) => format!("there is no field {name:?}; has() asks for it"),
            What::NoOverload(operator, one, other) => {
                format!("{} {operator} {} makes no sense", article(one), article(other))
            }
            What::NoSuch(what, of) => format!("{what} cannot be had of {}", article(of)),
            What::Overflow => "the number is too large".to_owned(),
            What::Zero => "it divides by zero".to_owned(),
            What::Bounds(index, length) => {
                format!("the list has {length} elements, none with number {index}")
            }
            What::Unreadable(wanted, text) => format!("{text:?} is no {wanted}"),
            What::Steps => format!("it takes more than {MAX_STEPS} steps"),
        };
        ExpressionError::at(text, self.at as usize, message)
    }
}

fn article(name: &str) -> String {
    match name {
        "null" => "null".to_owned(),
        "int" => "an int".to_owned(),
        name => format!("a {name}"),
    }
}

// === impl Operator ===

impl Operator {
    fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::In => "in",
        }
    }
}

// === impl Run ===

impl<'a> Run<'_, 'a> {
    fn evaluate(&mut self, node: &'a Node) -> Result<Val<'a>, Fault> {
        self.spend(1, 0)?;
        match node {
            Node::Null => Ok(Val::Null),
            Node::Bool(value) => Ok(Val::Bool(*value)),
            Node::Int(whole) => Ok(Val::Int(*whole)),
            Node::Double(number) => Ok(Val::Double(*number)),
            Node::Text(text) => Ok(Val::Text(text)),
            Node::Data(path, at) => match self.view.look_up(*path) {
                Ok(value) => Ok(Val::of(value)),
                Err(name) => Err(Fault { what: What::NoField(name.to_owned()), at: *at }),
            },
            Node::HasData(path, at) => match self.view.has(*path) {
                Ok(there) => Ok(Val::Bool(there)),
                Err(name) => Err(Fault { what: What::NoField(name.to_owned()), at: *at }),
            },
            Node::Attribute(attribute) => Ok(self.view.attribute(*attribute)),
            Node::Variable(number) => Ok(self.view.variables.get(*number).cloned().unwrap_or(Val::Null)),
            Node::Local(depth) => Ok(self.locals.get(*depth).cloned().unwrap_or(Val::Null)),
            Node::Field(operand, name, at) => {
                let operand = self.evaluate(operand)?;
                field(&operand, name, *at)?
                    .ok_or_else(|| Fault { what: What::NoField(name.clone()), at: *at })
            }
            Node::Has(operand, name, at) => {
                let operand = self.evaluate(operand)?;
                Ok(Val::Bool(field(&operand, name, *at)?.is_some()))
            }
            Node::Index(operand, index, at) => {
                let (operand, index) = (self.evaluate(operand)?, self.evaluate(index)?);
                element(&operand, &index, *at)
            }
            Node::And(left, right, at) => self.logical(left, right, false, *at),
            Node::Or(left, right, at) => self.logical(left, right, true, *at),
            Node::Not(operand, at) => Ok(Val::Bool(!self.truth(operand, *at)?)),
            Node::Negate(operand, at) => match self.evaluate(operand)? {
                Val::Int(whole) => {
                    Ok(Val::Int(whole.checked_neg().ok_or(Fault { what: What::Overflow, at: *at })?))
                }
                Val::Double(number) => Ok(Val::Double(-number)),
                other => Err(Fault { what: What::NoSuch("the negative", other.type_name()), at: *at }),
            },
            Node::Choose(parts, at) => {
                let [condition, then, otherwise] = &**parts;
                if self.truth(condition, *at)? { self.evaluate(then) } else { self.evaluate(otherwise) }
            }
            Node::Binary(operator, left, right, at) => {
                let (left, right) = (self.evaluate(left)?, self.evaluate(right)?);
                self.binary(*operator, &left, &right, *at)
            }
            Node::Call(function, args, at) => self.call(*function, args, *at),
            Node::List(nodes) => {
                let mut list = Vec::with_capacity(nodes.len());
                for node in nodes {
                    list.push(self.evaluate(node)?);
                }
                self.list(list, 0)
            }
            Node::Fold(fold, at) => self.fold(fold, *at),
        }
    }

    fn spend(&mut self, steps: u32, at: u32) -> Result<(), Fault> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS { Err(Fault { what: What::Steps, at }) } else { Ok(()) }
    }

    /// A list of these parts. Those may be shared: the list costs what it is when it is written out.
    fn list(&mut self, parts: Vec<Val<'a>>, at: u32) -> Result<Val<'a>, Fault> {
        let list = List::new(parts, MAX_STEPS);
        self.spend(list.size(), at)?;
        Ok(Val::List(Rc::new(list)))
    }

    /// What comparing two values takes.
    fn spend_comparing(&mut self, left: &Val<'a>, right: &Val<'a>, at: u32) -> Result<(), Fault> {
        let size = match (left.has_parts(), right.has_parts()) {
            (true, true) => left.size(MAX_STEPS),
            (true, false) | (false, true) => 0,
            (false, false) => left.size(0).min(right.size(0)),
        };
        self.spend(size, at)
    }

    fn truth(&mut self, node: &'a Node, at: u32) -> Result<bool, Fault> {
        match self.evaluate(node)? {
            Val::Bool(value) => Ok(value),
            other => Err(Fault { what: What::NoSuch("true or false", other.type_name()), at }),
        }
    }

    /// `&&` and `||`: one side may decide although the other is an error.
    fn logical(&mut self, left: &'a Node, right: &'a Node, decides: bool, at: u32) -> Result<Val<'a>, Fault> {
        let left = self.truth(left, at);
        if matches!(left, Ok(value) if value == decides) {
            return Ok(Val::Bool(decides));
        }
        let right = self.truth(right, at);
        match (left, right) {
            (_, Ok(value)) if value == decides => Ok(Val::Bool(decides)),
            (Err(fault), _) | (_, Err(fault)) => Err(fault),
            _ => Ok(Val::Bool(!decides)),
        }
    }

    fn binary(
        &mut self,
        operator: Operator,
        left: &Val<'a>,
        right: &Val<'a>,
        at: u32,
    ) -> Result<Val<'a>, Fault> {
        let nonsense =
            || Fault { what: What::NoOverload(operator.sign(), left.type_name(), right.type_name()), at };
        match operator {
            Operator::Equal | Operator::NotEqual => {
                self.spend_comparing(left, right, at)?;
                Ok(Val::Bool(left.equals(right) == (operator == Operator::Equal)))
            }
            Operator::Less | Operator::LessEqual | Operator::Greater | Operator::GreaterEqual => {
                self.spend_comparing(left, right, at)?;
                let order = left.order(right).ok_or_else(nonsense)?;
                Ok(Val::Bool(match operator {
                    Operator::Less => order == Ordering::Less,
                    Operator::LessEqual => order != Ordering::Greater,
                    Operator::Greater => order == Ordering::Greater,
                    _ => order != Ordering::Less,
                }))
            }
            Operator::In => {
                if let Val::Json(serde_json::Value::Object(map)) = right {
                    return left.as_text().map(|name| Val::Bool(map.contains_key(name))).ok_or_else(nonsense);
                }
                let length = right.list_len().ok_or_else(nonsense)?;
                for index in 0..length {
                    let element = right.list_get(index).unwrap_or(Val::Null);
                    self.spend(1, at)?;
                    self.spend_comparing(&element, left, at)?;
                    if element.equals(left) {
                        return Ok(Val::Bool(true));
                    }
                }
                Ok(Val::Bool(false))
            }
            Operator::Add => {
                if let (Some(one), Some(other)) = (left.as_text(), right.as_text()) {
                    self.spend(left.size(0).saturating_add(right.size(0)), at)?;
                    return Ok(Val::Made(Rc::from(format!("{one}{other}"))));
                }
                if let (Some(one), Some(other)) = (left.list_len(), right.list_len()) {
                    self.spend(u32::try_from(one + other).unwrap_or(u32::MAX), at)?;
                    let first = (0..one).filter_map(|index| left.list_get(index));
                    let second = (0..other).filter_map(|index| right.list_get(index));
                    return self.list(first.chain(second).collect(), at);
                }
                arithmetic(operator, left, right, at).ok_or_else(nonsense)?
            }
            _ => arithmetic(operator, left, right, at).ok_or_else(nonsense)?,
        }
    }

    fn call(&mut self, function: Function, args: &'a [Node], at: u32) -> Result<Val<'a>, Fault> {
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(self.evaluate(arg)?);
        }
        let mut each = values.iter();
        let (first, second) = (each.next().unwrap_or(&Val::Null), each.next().unwrap_or(&Val::Null));
        // Of what has parts, a function asks for the number of them at most.
        self.spend(if first.has_parts() { 0 } else { first.size(0) }, at)?;
        let no_such = |what| Fault { what: What::NoSuch(what, first.type_name()), at };
        match function {
            Function::Contains | Function::StartsWith | Function::EndsWith => {
                let texts = first.as_text().zip(second.as_text());
                let (text, part) = texts.ok_or_else(|| no_such("a part of this kind"))?;
                Ok(Val::Bool(match function {
                    Function::Contains => text.contains(part),
                    Function::StartsWith => text.starts_with(part),
                    _ => text.ends_with(part),
                }))
            }
            Function::Greatest | Function::Least => {
                let mut best = first.clone();
                best.as_number().ok_or_else(|| no_such("the greatest or least"))?;
                for value in values.iter().skip(1) {
                    let wanted = if function == Function::Least { Ordering::Less } else { Ordering::Greater };
                    let other = value.type_name();
                    value
                        .as_number()
                        .ok_or(Fault { what: What::NoSuch("the greatest or least", other), at })?;
                    if value.order(&best) == Some(wanted) {
                        best = value.clone();
                    }
                }
                Ok(best)
            }
            _ => convert(function, first, at),
        }
    }

    fn fold(&mut self, fold: &'a Fold, at: u32) -> Result<Val<'a>, Fault> {
        let range = self.evaluate(&fold.range)?;
        let length = match &range {
            Val::Json(serde_json::Value::Object(map)) => map.len(),
            other => {
                other.list_len().ok_or(Fault { what: What::NoSuch("the elements", range.type_name()), at })?
            }
        };
        let start = self.evaluate(&fold.start)?;
        let base = self.locals.len();
        self.locals.extend([start, Val::Null]);
        let result = self.fold_over(fold, &range, length, base, at);
        self.locals.truncate(base);
        result
    }

    fn fold_over(
        &mut self,
        fold: &'a Fold,
        range: &Val<'a>,
        length: usize,
        base: usize,
        at: u32,
    ) -> Result<Val<'a>, Fault> {
        let (mut fault, mut list) = (None, Vec::new());
        // A map's elements are its names.
        let mut names = match range {
            Val::Json(serde_json::Value::Object(map)) => Some(map.keys()),
            _ => None,
        };
        for index in 0..length {
            self.spend(1, at)?;
            let element = match &mut names {
                Some(names) => names.next().map_or(Val::Null, |name| Val::Text(name)),
                None => range.list_get(index).unwrap_or(Val::Null),
            };
            if let Some(slot) = self.locals.get_mut(base + 1) {
                *slot = element;
            }
            if let Some((condition, added)) = &fold.append {
                if let Some(condition) = condition
                    && !self.truth(condition, at)?
                {
                    continue;
                }
                for node in added {
                    list.push(self.evaluate(node)?);
                }
                continue;
            }
            if fault.is_none() && !self.truth(&fold.condition, at)? {
                break;
            }
            match (self.evaluate(&fold.step), fold.logical) {
                (Ok(Val::Bool(value)), Some(decides)) if value == decides => {
                    fault = None;
                    self.set_local(base, Val::Bool(value));
                }
                (Ok(_), Some(_)) if fault.is_some() => {}
                (Ok(value), _) => self.set_local(base, value),
                (Err(error), Some(_)) if !matches!(error.what, What::Steps) => fault = Some(error),
                (Err(error), _) => return Err(error),
            }
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        if fold.append.is_some() {
            let list = self.list(list, at)?;
            self.set_local(base, list);
        }
        self.evaluate(&fold.result)
    }

    fn set_local(&mut self, number: usize, value: Val<'a>) {
        if let Some(slot) = self.locals.get_mut(number) {
            *slot = value;
        }
    }
}

/// A field of a map; an error where there can be none.
fn field<'a>(operand: &Val<'a>, name: &str, at: u32) -> Result<Option<Val<'a>>, Fault> {
    match operand {
        Val::Json(serde_json::Value::Object(map)) => Ok(map.get(name).map(Val::of)),
        other => Err(Fault { what: What::NoSuch("a field", other.type_name()), at }),
    }
}

fn element<'a>(operand: &Val<'a>, index: &Val<'a>, at: u32) -> Result<Val<'a>, Fault> {
    if let (Val::Json(serde_json::Value::Object(map)), Some(name)) = (operand, index.as_text()) {
        return map.get(name).map(Val::of).ok_or_else(|| Fault { what: What::NoField(name.to_owned()), at });
    }
    let length =
        operand.list_len().ok_or(Fault { what: What::NoSuch("an element", operand.type_name()), at })?;
    let number = match index {
        Val::Int(number) => *number,
        Val::Double(number) if number.fract() == 0.0 => *number as i64,
        other => {
            return Err(Fault { what: What::NoOverload("[]", operand.type_name(), other.type_name()), at });
        }
    };
    let place = usize::try_from(number).ok().and_then(|place| operand.list_get(place));
    place.ok_or(Fault { what: What::Bounds(number, length), at })
}

/// Arithmetic with two numbers; nothing where one is none.
fn arithmetic<'a>(
    operator: Operator,
    left: &Val<'_>,
    right: &Val<'_>,
    at: u32,
) -> Option<Result<Val<'a>, Fault>> {
    if let (Val::Int(one), Val::Int(other)) = (left, right) {
        if *other == 0 && matches!(operator, Operator::Divide | Operator::Modulo) {
            return Some(Err(Fault { what: What::Zero, at }));
        }
        let whole = match operator {
            Operator::Add => one.checked_add(*other),
            Operator::Subtract => one.checked_sub(*other),
            Operator::Multiply => one.checked_mul(*other),
            Operator::Divide => one.checked_div(*other),
            _ => one.checked_rem(*other),
        };
        return Some(whole.map(Val::Int).ok_or(Fault { what: What::Overflow, at }));
    }
    let (one, other) = (left.as_number()?, right.as_number()?);
    Some(Ok(Val::Double(match operator {
        Operator::Add => one + other,
        Operator::Subtract => one - other,
        Operator::Multiply => one * other,
        Operator::Divide => one / other,
        // CEL has no remainder of numbers that are not whole.
        _ => return None,
    })))
}

fn convert<'a>(function: Function, value: &Val<'a>, at: u32) -> Result<Val<'a>, Fault> {
    let no_such = |what| Fault { what: What::NoSuch(what, value.type_name()), at };
    let unreadable =
        |wanted, text: &str| Fault { what: What::Unreadable(wanted, text.chars().take(40).collect()), at };
    let number = || value.as_number().ok_or_else(|| no_such("a number"));
    Ok(match function {
        Function::Size => match (value.as_text(), value) {
            (Some(text), _) => Val::Int(text.chars().count() as i64),
            (None, Val::Json(serde_json::Value::Object(map))) => Val::Int(map.len() as i64),
            (None, other) => Val::Int(other.list_len().ok_or_else(|| no_such("the size"))? as i64),
        },
        Function::Int => match (value.as_text(), value) {
            (Some(text), _) => Val::Int(text.parse().map_err(|_| unreadable("whole number", text))?),
            (None, Val::Int(whole)) => Val::Int(*whole),
            (None, _) => {
                let number = number()?;
                // The bounds of CEL: what an i64 holds for sure.
                if number.abs() < 9_223_372_036_854_775_000.0 {
                    Val::Int(number as i64)
                } else {
                    return Err(Fault { what: What::Overflow, at });
                }
            }
        },
        Function::Double => match value.as_text() {
            Some(text) => Val::Double(text.parse().map_err(|_| unreadable("number", text))?),
            None => Val::Double(number()?),
        },
        Function::Text => match value {
            Val::Text(text) => Val::Text(text),
            Val::Made(text) => Val::Made(Rc::clone(text)),
            Val::Bool(value) => Val::Made(Rc::from(value.to_string())),
            Val::Int(whole) => Val::Made(Rc::from(whole.to_string())),
            Val::Double(number) => Val::Made(Rc::from(number.to_string())),
            _ => return Err(no_such("a text")),
        },
        Function::Bool => match (value, value.as_text()) {
            (Val::Bool(value), _) => Val::Bool(*value),
            (_, Some("true")) => Val::Bool(true),
            (_, Some("false")) => Val::Bool(false),
            (_, Some(text)) => return Err(unreadable("bool", text)),
            _ => return Err(no_such("true or false")),
        },
        Function::Abs => match value {
            Val::Int(whole) => Val::Int(whole.checked_abs().ok_or(Fault { what: What::Overflow, at })?),
            _ => Val::Double(number()?.abs()),
        },
        Function::Ceil => Val::Double(number()?.ceil()),
        Function::Floor => Val::Double(number()?.floor()),
        _ => Val::Double(number()?.round()),
    })
}
