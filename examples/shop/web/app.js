// The front page: products, cart and live stock, all from the frontend service.

const shop = shopURL();
const grid = document.querySelector(".grid");
const problem = document.querySelector(".problem");

// shopURL finds the frontend beside this page:
//   ?frontend=URL                          that URL
//   http://web.shop.localhost:8000/        http://frontend.shop.localhost:8000/
//   http://localhost:8000/web/             http://localhost:8000/frontend/
//   http://localhost:8081/                 http://localhost:8080/
function shopURL() {
  const given = new URLSearchParams(location.search).get("frontend");
  if (given) {
    const url = new URL(given.replace(/\/*$/, "/"), location.href);
    if (url.protocol.startsWith("http")) return url;
  }
  const labels = location.hostname.split(".");
  if (labels.length > 1 && /[a-z]/i.test(labels.at(-1))) {
    labels[0] = "frontend";
    return new URL(`${location.protocol}//${labels.join(".")}${location.port && ":" + location.port}/`);
  }
  if (/\/web(\/|$)/.test(location.pathname)) {
    return new URL(location.pathname.replace(/\/web(\/.*)?$/, "/frontend/"), location.href);
  }
  return new URL(`${location.protocol}//${location.hostname}:8080/`);
}

async function api(path, body) {
  const answer = await fetch(new URL(path, shop), {
    method: body ? "POST" : "GET",
    credentials: "include",
    headers: body && { "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  const data = await answer.json();
  if (!answer.ok) throw new Error(data.error ?? answer.statusText);
  return data;
}

function showCart({ items }) {
  document.querySelector(".count").textContent = items.reduce((sum, item) => sum + item.n, 0);
}

function showStock({ id, left }) {
  const card = document.getElementById(`product-${id}`);
  if (!card) return;
  const stock = card.querySelector(".stock");
  const text = left > 0 ? `${left} left` : "Sold out";
  if (stock.textContent && stock.textContent !== text) {
    stock.animate([{ background: "var(--coral)", color: "#fff" }, {}], 900);
  }
  stock.textContent = text;
  stock.classList.toggle("low", left < 6);
  card.querySelector("button").disabled = left < 1;
}

function showProduct(product) {
  const card = document.querySelector("template").content.cloneNode(true).firstElementChild;
  card.id = `product-${product.id}`;
  card.querySelector("img").src = new URL(`static/art/${product.id}.svg`, shop);
  card.querySelector("h3").textContent = product.name;
  card.querySelector(".price").textContent = `€${(product.price / 100).toFixed(2)}`;
  card.querySelector("p").textContent = product.blurb;
  const button = card.querySelector("button");
  button.addEventListener("click", async () => {
    try {
      showCart(await api("api/cart", { id: product.id, n: 1 }));
      button.textContent = "Added";
    } catch (err) {
      button.textContent = "Not added";
      button.title = err.message;
    }
    setTimeout(() => (button.textContent = "Add to cart"), 1200);
  });
  grid.append(card);
  showStock({ id: product.id, left: product.stock });
}

async function load() {
  try {
    const [products, cart] = await Promise.all([api("api/products"), api("api/cart")]);
    grid.replaceChildren();
    products.forEach(showProduct);
    showCart(cart);
    problem.hidden = true;
  } catch (err) {
    problem.hidden = false;
    problem.textContent = `The shop at ${shop} does not answer yet (${err.message}). Trying again.`;
    setTimeout(load, 1000);
  }
}

function connect() {
  const live = document.querySelector(".live");
  const url = new URL("live", shop);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.onopen = () => { live.classList.add("on"); live.lastChild.textContent = "stock is live"; };
  socket.onmessage = ({ data }) => showStock(JSON.parse(data));
  socket.onclose = () => {
    live.classList.remove("on");
    live.lastChild.textContent = "connecting";
    setTimeout(connect, 500);
  };
}

document.querySelectorAll("[data-shop]").forEach((a) => (a.href = new URL(a.dataset.shop, shop)));
load();
connect();
