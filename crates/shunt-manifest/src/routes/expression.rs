//! Conditions: the tree, its types, and the parser that builds only trees whose types fit.

use std::fmt;

use super::{
    RouteError,
    lexer::{Token, TokenKind},
};

/// How deep brackets, `NOT`, `-` and functions may nest.
pub(super) const MAX_DEPTH: usize = 64;

/// A condition, or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Bool(bool),
    Number(f64),
    Text(String),
    Null,
    Undefined,
    /// An application property by its bare name.
    Property(String),
    /// `$name`, with the `$`: an application property of that name if there is one, else the system property.
    System(String),
    /// `{$name}`: the system property only.
    SystemOnly(String),
    /// `$body.path`, unless an application property has that very name.
    Body {
        name: String,
        path: Vec<Step>,
    },
    /// `{$body.path}`
    BodyOnly(Vec<Step>),
    TwinChangeIncludes(Vec<Step>),
    Negate(Box<Expression>),
    Not(Box<Expression>),
    Arithmetic(Arithmetic, Box<(Expression, Expression)>),
    Compare(Comparison, Box<(Expression, Expression)>),
    And(Box<(Expression, Expression)>),
    Or(Box<(Expression, Expression)>),
    Coalesce(Box<(Expression, Expression)>),
    Call(Function, Vec<Expression>),
}

/// A step of a path into a JSON body: `name` or `name[2]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) index: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// What a part of a condition yields, known before any message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Number,
    Text,
    Null,
    Undefined,
    /// From the body: known only when a message is there.
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Abs,
    Exp,
    Power,
    Square,
    Ceiling,
    Floor,
    Sign,
    Sqrt,
    AsNumber,
    IsBool,
    IsDefined,
    IsNull,
    IsNumber,
    IsString,
    Concat,
    Length,
    Lower,
    Upper,
    Substring,
    IndexOf,
    StartsWith,
    EndsWith,
    Contains,
}

/// What a function takes.
enum Takes {
    /// One of these lists.
    Lists(&'static [&'static [Type]]),
    /// One value of any kind.
    Anything,
    /// Two or more texts.
    Texts,
}

use Function as F;

const FUNCTIONS: [(&str, Function); 23] = [
    ("abs", F::Abs),
    ("exp", F::Exp),
    ("power", F::Power),
    ("square", F::Square),
    ("ceiling", F::Ceiling),
    ("floor", F::Floor),
    ("sign", F::Sign),
    ("sqrt", F::Sqrt),
    ("as_number", F::AsNumber),
    ("is_bool", F::IsBool),
    ("is_defined", F::IsDefined),
    ("is_null", F::IsNull),
    ("is_number", F::IsNumber),
    ("is_string", F::IsString),
    ("concat", F::Concat),
    ("length", F::Length),
    ("lower", F::Lower),
    ("upper", F::Upper),
    ("substring", F::Substring),
    ("index_of", F::IndexOf),
    ("starts_with", F::StartsWith),
    ("ends_with", F::EndsWith),
    ("contains", F::Contains),
];

const TWIN_CHANGE_INCLUDES: &str = "twin_change_includes";

/// The names of all functions, for messages.
pub(super) fn function_names() -> String {
    let mut names: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
    names.push("twin_change_includes (from /twinChangeNotifications only)");
    names.join(", ")
}

// === impl Function ===

impl Function {
    fn takes(self) -> Takes {
        const NUMBER: &[&[Type]] = &[&[Type::Number]];
        const TEXT: &[&[Type]] = &[&[Type::Text]];
        const TWO_TEXTS: &[&[Type]] = &[&[Type::Text, Type::Text]];
        match self {
            F::Abs | F::Exp | F::Square | F::Ceiling | F::Floor | F::Sign | F::Sqrt => Takes::Lists(NUMBER),
            F::Power => Takes::Lists(&[&[Type::Number, Type::Number]]),
            F::AsNumber => Takes::Lists(&[&[Type::Text], &[Type::Number]]),
            F::IsBool | F::IsDefined | F::IsNull | F::IsNumber | F::IsString => Takes::Anything,
            F::Concat => Takes::Texts,
            F::Length | F::Lower | F::Upper => Takes::Lists(TEXT),
            F::Substring => {
                Takes::Lists(&[&[Type::Text, Type::Number], &[Type::Text, Type::Number, Type::Number]])
            }
            F::IndexOf | F::StartsWith | F::EndsWith | F::Contains => Takes::Lists(TWO_TEXTS),
        }
    }

    fn gives(self) -> Type {
        match self {
            F::Abs
            | F::Exp
            | F::Power
            | F::Square
            | F::Ceiling
            | F::Floor
            | F::Sign
            | F::Sqrt
            | F::AsNumber
            | F::Length
            | F::IndexOf => Type::Number,
            F::IsBool
            | F::IsDefined
            | F::IsNull
            | F::IsNumber
            | F::IsString
            | F::StartsWith
            | F::EndsWith
            | F::Contains => Type::Bool,
            F::Concat | F::Lower | F::Upper | F::Substring => Type::Text,
        }
    }
}

// === impl Takes ===

impl Takes {
    fn fits(&self, given: &[Type]) -> bool {
        match self {
            Self::Lists(lists) => lists.iter().any(|list| {
                list.len() == given.len() && list.iter().zip(given).all(|(wanted, given)| wanted.fits(*given))
            }),
            Self::Anything => given.len() == 1,
            Self::Texts => given.len() >= 2 && given.iter().all(|given| Type::Text.fits(*given)),
        }
    }
}

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lists(lists) => {
                let lists: Vec<String> = lists.iter().map(|list| names(list)).collect();
                f.write_str(&lists.join(" or "))
            }
            Self::Anything => f.write_str("(one value)"),
            Self::Texts => f.write_str("(text, text, ...)"),
        }
    }
}

fn names(types: &[Type]) -> String {
    let names: Vec<String> = types.iter().map(ToString::to_string).collect();
    format!("({})", names.join(", "))
}

// === impl Type ===

impl Type {
    /// May a value of type `given` stand where this type is wanted?
    fn fits(self, given: Type) -> bool {
        self == given
            || matches!(given, Type::Any | Type::Undefined)
            || matches!(self, Type::Any | Type::Undefined)
    }

    fn is_condition(self) -> bool {
        matches!(self, Type::Bool | Type::Null | Type::Undefined | Type::Any)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::Number => "number",
            Self::Text => "text",
            Self::Null => "null",
            Self::Undefined => "undefined",
            Self::Any => "body value",
        })
    }
}

// === impl Expression ===

impl Expression {
    fn of_type(&self) -> Type {
        match self {
            Self::Number(_) | Self::Negate(_) | Self::Arithmetic(..) => Type::Number,
            Self::Text(_) | Self::Property(_) | Self::System(_) | Self::SystemOnly(_) => Type::Text,
            Self::Null => Type::Null,
            Self::Undefined => Type::Undefined,
            Self::Body { .. } | Self::BodyOnly(_) => Type::Any,
            Self::Bool(_)
            | Self::TwinChangeIncludes(_)
            | Self::Not(_)
            | Self::Compare(..)
            | Self::And(_)
            | Self::Or(_) => Type::Bool,
            Self::Coalesce(pair) => match (pair.0.of_type(), pair.1.of_type()) {
                (Type::Undefined, right) => right,
                (left, right) if left == right => left,
                (left, Type::Undefined) => left,
                _ => Type::Any,
            },
            Self::Call(function, _) => function.gives(),
        }
    }
}

/// Reads words one by one. Recursion is bounded by [`MAX_DEPTH`], loops by the number of words.
#[derive(Debug)]
pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    twin_changes: bool,
}

// === impl Parser ===

impl Parser {
    pub(super) fn new(tokens: Vec<Token>) -> Self {
        Self { tokens, at: 0, depth: 0, twin_changes: false }
    }

    /// Tells that the source is `/twinChangeNotifications`, where one more function is known.
    pub(super) fn set_twin_changes(&mut self, twin_changes: bool) {
        self.twin_changes = twin_changes;
    }

    fn peek(&self) -> Token {
        self.tokens.get(self.at).cloned().unwrap_or(Token { position: 1, kind: TokenKind::End })
    }

    pub(super) fn next(&mut self) -> Token {
        let token = self.peek();
        // The last word, `End`, is never passed.
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    pub(super) fn take(&mut self, kind: &TokenKind) -> Option<Token> {
        let token = self.peek();
        (token.kind == *kind).then(|| self.next())
    }

    pub(super) fn expect(&mut self, kind: &TokenKind, allowed: &str) -> Result<Token, RouteError> {
        self.take(kind).ok_or_else(|| self.peek().unexpected(allowed))
    }

    /// `a ?? b`, which binds loosest.
    pub(super) fn expression(&mut self) -> Result<Expression, RouteError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(RouteError::TooDeep { position: self.peek().position });
        }
        let mut left = self.or()?;
        while let Some(operator) = self.take(&TokenKind::Coalesce) {
            let right = self.or()?;
            same_kind(&operator, &left, &right)?;
            left = Expression::Coalesce(Box::new((left, right)));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn or(&mut self) -> Result<Expression, RouteError> {
        let mut left = self.and()?;
        while let Some(operator) = self.take(&TokenKind::Or) {
            let right = self.and()?;
            conditions(&operator, &left, &right)?;
            left = Expression::Or(Box::new((left, right)));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expression, RouteError> {
        let mut left = self.equality()?;
        while let Some(operator) = self.take(&TokenKind::And) {
            let right = self.equality()?;
            conditions(&operator, &left, &right)?;
            left = Expression::And(Box::new((left, right)));
        }
        Ok(left)
    }

    fn equality(&mut self) -> Result<Expression, RouteError> {
        let mut left = self.order()?;
        loop {
            let comparison = match self.peek().kind {
                TokenKind::Equal => Comparison::Equal,
                TokenKind::NotEqual => Comparison::NotEqual,
                _ => return Ok(left),
            };
            let operator = self.next();
            let right = self.order()?;
            same_kind(&operator, &left, &right)?;
            left = Expression::Compare(comparison, Box::new((left, right)));
        }
    }

    fn order(&mut self) -> Result<Expression, RouteError> {
        let mut left = self.sum()?;
        loop {
            let comparison = match self.peek().kind {
                TokenKind::Less => Comparison::Less,
                TokenKind::LessEqual => Comparison::LessEqual,
                TokenKind::Greater => Comparison::Greater,
                TokenKind::GreaterEqual => Comparison::GreaterEqual,
                _ => return Ok(left),
            };
            let operator = self.next();
            let right = self.sum()?;
            same_kind(&operator, &left, &right)?;
            left = Expression::Compare(comparison, Box::new((left, right)));
        }
    }

    fn sum(&mut self) -> Result<Expression, RouteError> {
        let mut left = self.product()?;
        loop {
            let operator = self.peek();
            let arithmetic = match operator.kind {
                TokenKind::Plus => Arithmetic::Add,
                TokenKind::Minus => Arithmetic::Subtract,
                TokenKind::Concat => {
                    self.next();
                    let right = self.product()?;
                    both(&operator, Type::Text, &left, &right)?;
                    left = Expression::Call(Function::Concat, vec![left, right]);
                    continue;
                }
                _ => return Ok(left),
            };
            self.next();
            let right = self.product()?;
            both(&operator, Type::Number, &left, &right)?;
            left = Expression::Arithmetic(arithmetic, Box::new((left, right)));
        }
    }

    fn product(&mut self) -> Result<Expression, RouteError> {
        let mut left = self.prefix()?;
        loop {
            let arithmetic = match self.peek().kind {
                TokenKind::Star => Arithmetic::Multiply,
                TokenKind::Slash => Arithmetic::Divide,
                TokenKind::Percent => Arithmetic::Modulo,
                _ => return Ok(left),
            };
            let operator = self.next();
            let right = self.prefix()?;
            both(&operator, Type::Number, &left, &right)?;
            left = Expression::Arithmetic(arithmetic, Box::new((left, right)));
        }
    }

    /// `-` and `NOT` bind tightest.
    fn prefix(&mut self) -> Result<Expression, RouteError> {
        let operator = self.peek();
        if !matches!(operator.kind, TokenKind::Minus | TokenKind::Not) {
            return self.value();
        }
        self.next();
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(RouteError::TooDeep { position: operator.position });
        }
        let operand = self.prefix()?;
        self.depth -= 1;
        let given = operand.of_type();
        if operator.kind == TokenKind::Minus {
            if !Type::Number.fits(given) {
                return Err(types(&operator, &format!("({given})"), "(number)"));
            }
            return Ok(Expression::Negate(Box::new(operand)));
        }
        if !given.is_condition() {
            let allowed = "(bool); it binds tighter than = and the like, so write NOT (a = b)";
            return Err(types(&operator, &format!("({given})"), allowed));
        }
        Ok(Expression::Not(Box::new(operand)))
    }

    fn value(&mut self) -> Result<Expression, RouteError> {
        let token = self.next();
        Ok(match token.kind {
            TokenKind::True => Expression::Bool(true),
            TokenKind::False => Expression::Bool(false),
            TokenKind::Null => Expression::Null,
            TokenKind::Undefined => Expression::Undefined,
            TokenKind::Text(text) => Expression::Text(text),
            TokenKind::Number(number) if number.is_nan() => Expression::Undefined,
            TokenKind::Number(number) => Expression::Number(number),
            TokenKind::System(name) => match body_path(&name, token.position)? {
                Some(path) => Expression::Body { name, path },
                None => Expression::System(name),
            },
            TokenKind::OpenBrace => {
                let inner = self.next();
                let TokenKind::System(name) = &inner.kind else {
                    return Err(inner.unexpected("a system property, as in {$contentType}"));
                };
                self.expect(&TokenKind::CloseBrace, "}")?;
                match body_path(name, inner.position)? {
                    Some(path) => Expression::BodyOnly(path),
                    None => Expression::SystemOnly(name.clone()),
                }
            }
            TokenKind::Name(name) => {
                if self.take(&TokenKind::Open).is_some() {
                    return self.call(&name, token.position);
                }
                Expression::Property(name)
            }
            TokenKind::Open => {
                let inner = self.expression()?;
                self.expect(&TokenKind::Close, "an operator, )")?;
                inner
            }
            _ => {
                return Err(token.unexpected(
                    "a value: a property, $system, $body.path, 'text', a number, a function, (",
                ));
            }
        })
    }

    /// A function, after its opening bracket.
    fn call(&mut self, name: &str, position: usize) -> Result<Expression, RouteError> {
        if name.eq_ignore_ascii_case(TWIN_CHANGE_INCLUDES) && self.twin_changes {
            return self.twin_change_includes(position);
        }
        let Some((known, function)) = FUNCTIONS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))
        else {
            return Err(RouteError::UnknownFunction { position, name: name.to_owned() });
        };
        let mut arguments = Vec::new();
        if self.take(&TokenKind::Close).is_none() {
            loop {
                arguments.push(self.expression()?);
                if self.take(&TokenKind::Comma).is_none() {
                    break;
                }
            }
            self.expect(&TokenKind::Close, "an operator, a comma, )")?;
        }
        let given: Vec<Type> = arguments.iter().map(Expression::of_type).collect();
        let takes = function.takes();
        if !takes.fits(&given) {
            return Err(RouteError::Types {
                position,
                what: format!("the function {known}"),
                given: names(&given),
                allowed: takes.to_string(),
            });
        }
        Ok(Expression::Call(*function, arguments))
    }

    /// Takes one path without quotes: `twin_change_includes(properties.reported.fps)`.
    fn twin_change_includes(&mut self, position: usize) -> Result<Expression, RouteError> {
        let argument = self.next();
        let (TokenKind::Name(text) | TokenKind::Path(text)) = &argument.kind else {
            return Err(argument.unexpected("a path such as properties.reported.fps"));
        };
        let lower = text.to_ascii_lowercase();
        let known = ["properties.reported.", "properties.desired.", "tags."];
        if !known.iter().any(|start| lower.starts_with(start)) {
            return Err(argument
                .unexpected("a path that starts with properties.reported., properties.desired. or tags."));
        }
        let path = steps(text).ok_or(RouteError::Syntax {
            position,
            found: format!("{text:?}"),
            allowed: "a path such as properties.reported.list[0].name".to_owned(),
        })?;
        self.expect(&TokenKind::Close, ")")?;
        Ok(Expression::TwinChangeIncludes(path))
    }
}

/// The path of `$body.path`; none for another system property.
fn body_path(name: &str, position: usize) -> Result<Option<Vec<Step>>, RouteError> {
    let (start, path) = name.split_at_checked("$body.".len()).unwrap_or((name, ""));
    if !start.eq_ignore_ascii_case("$body.") {
        if name.contains(['[', ']']) {
            return Err(RouteError::Syntax {
                position,
                found: format!("{name:?}"),
                allowed: "[ and ] in $body.path only".to_owned(),
            });
        }
        return Ok(None);
    }
    match steps(path) {
        Some(path) => Ok(Some(path)),
        None => Err(RouteError::Syntax {
            position,
            found: format!("{name:?}"),
            allowed: "$body.name, $body.name.name, $body.name[0].name".to_owned(),
        }),
    }
}

fn steps(path: &str) -> Option<Vec<Step>> {
    path.split('.')
        .map(|part| {
            let (name, index) = match part.split_once('[') {
                Some((name, index)) => {
                    let digits = index.strip_suffix(']')?;
                    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                        return None;
                    }
                    // A number beyond any list is a place that no list has.
                    (name, Some(digits.parse().unwrap_or(usize::MAX)))
                }
                None => (part, None),
            };
            (!name.is_empty() && !name.contains(']')).then(|| Step { name: name.to_owned(), index })
        })
        .collect()
}

fn types(operator: &Token, given: &str, allowed: &str) -> RouteError {
    RouteError::Types {
        position: operator.position,
        what: format!("the operator {}", operator.kind),
        given: given.to_owned(),
        allowed: allowed.to_owned(),
    }
}

fn both(operator: &Token, wanted: Type, left: &Expression, right: &Expression) -> Result<(), RouteError> {
    let (left, right) = (left.of_type(), right.of_type());
    if wanted.fits(left) && wanted.fits(right) {
        return Ok(());
    }
    let hint = if wanted == Type::Number {
        "; properties are text, as_number(name) makes a number of one"
    } else {
        ""
    };
    Err(types(operator, &names(&[left, right]), &format!("({wanted}, {wanted}){hint}")))
}

fn same_kind(operator: &Token, left: &Expression, right: &Expression) -> Result<(), RouteError> {
    let (left, right) = (left.of_type(), right.of_type());
    if left.fits(right) {
        return Ok(());
    }
    let allowed = "two values of one kind; properties are text, as_number(name) makes a number of one";
    Err(types(operator, &names(&[left, right]), allowed))
}

fn conditions(operator: &Token, left: &Expression, right: &Expression) -> Result<(), RouteError> {
    let (left, right) = (left.of_type(), right.of_type());
    if left.is_condition() && right.is_condition() {
        return Ok(());
    }
    Err(types(operator, &names(&[left, right]), "(bool, bool)"))
}
