// {{name}}: greets whom it is told of.

export function handle(req) {
  // req is a string where the body is UTF-8, else a Uint8Array. What is returned is the answer: a string, bytes, or
  // anything that JSON has. There are shunt.state, shunt.publish and shunt.log.
  console.log("called");
  return `Hello, ${req.trim()}!\n`;
}
