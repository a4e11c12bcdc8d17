// What the page asks of the server, and hears from it.

export async function post(what, keys) {
  const answer = await fetch(what, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(keys),
  });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

export const choices = async () => (await fetch("choices")).json();

// Calls one function for each kind of event; the browser connects again by itself.
export function listen(calls, lost) {
  const events = new EventSource("events");
  for (const [kind, call] of Object.entries(calls)) {
    events.addEventListener(kind, (event) => call(JSON.parse(event.data)));
  }
  events.onerror = () => lost(true);
  events.onopen = () => lost(false);
}
