"""{{name}}: greets whom it is told of."""


def handle(req):
    # req is a str where the body is UTF-8, else bytes. What is returned is the answer: str, bytes, a number, or
    # anything that JSON has. With `import shunt` there are shunt.state, shunt.publish and shunt.log.
    print("called")
    return f"Hello, {req.strip()}!\n"
