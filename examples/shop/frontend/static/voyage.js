// Follows a shipment until it is delivered.
const voyage = document.querySelector(".voyage");
if (voyage) {
  const events = new EventSource(new URL(voyage.dataset.events, document.baseURI));
  events.onmessage = ({ data }) => {
    const { stage, done } = JSON.parse(data);
    [...voyage.children].forEach((li, i) => {
      li.classList.toggle("done", i < stage || done);
      li.classList.toggle("now", i === stage && !done);
    });
    if (done) events.close();
  };
}
