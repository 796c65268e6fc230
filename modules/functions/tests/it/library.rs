//! Installing, listing, replacing, removing and calling, as a user does.

use functions::FunctionsSettings;

use crate::yard::Yard;

#[tokio::test]
async fn the_names_are_listed_one_a_line_and_echo_is_always_there() {
    let yard = Yard::start(FunctionsSettings::default()).await;
    let answer = yard.get("/mgmt").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "echo\n"));
    assert_eq!(yard.entry("echo").await["installed_by"], "built-in");
}
