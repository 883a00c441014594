// Shows the stock as it changes, for as long as the page is open.
(function connect() {
  const url = new URL("live", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.onmessage = ({ data }) => {
    const { id, left } = JSON.parse(data);
    const card = document.querySelector(`.card[data-id="${CSS.escape(id)}"]`);
    const stock = card?.querySelector(".stock");
    if (!stock || stock.dataset.left === String(left)) return;
    stock.dataset.left = left;
    stock.textContent = left > 0 ? `${left} left` : "Sold out";
    card.querySelector("button").disabled = left < 1;
    stock.animate([{ opacity: 0.2 }, { opacity: 1 }], 600);
  };
  socket.onclose = () => setTimeout(connect, 500);
})();
