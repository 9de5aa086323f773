"use strict";

// The token is in this tab alone: never in a cookie, so no other page can act for the user.
const TOKEN = "messenger-token";
const LIST_AGAIN_MS = 3000;
const BE_SEEN_MS = 20000;
const EXPIRED = 3005;

const byId = (id) => document.getElementById(id);

let token = sessionStorage.getItem(TOKEN);
let socket = null;
let failures = 0;
let waiting = 0;

// Asking the server -----------------------------------------------------------------------------

/** The status and the JSON of an answer; null if the login is over, or nobody answers. */
async function ask(method, path, body) {
  const asked = token;
  const headers = { authorization: `Bearer ${asked}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: JSON.stringify(body) });
  } catch {
    return null; // the WebSocket notices, too, and says so
  }
  if (asked !== token) return null; // somebody else has logged in meanwhile
  if (answer.status === 401) {
    loggedOut("You were logged out.");
    return null;
  }
  return { status: answer.status, json: await answer.json() };
}

// Logging in and out ----------------------------------------------------------------------------

async function logIn(name) {
  const answer = await ask("POST", "/login", { name });
  if (answer?.status !== 200) {
    farewell(answer ? "This name does not do." : "The server cannot be reached.");
    return;
  }
  token = answer.json.token;
  sessionStorage.setItem(TOKEN, token);
  failures = 0;
  start();
}

function loggedOut(why) {
  token = null;
  sessionStorage.removeItem(TOKEN);
  clearTimeout(waiting);
  const old = socket;
  socket = null;
  old?.close();
  // What only the user may see is not left on the screen.
  for (const id of ["lines", "current", "others"]) byId(id).replaceChildren();
  for (const form of document.forms) form.reset();
  byId("user").textContent = "";
  notice("");
  show("login");
  farewell(why);
}

function farewell(text) {
  byId("farewell").textContent = text;
  byId("farewell").hidden = !text;
}

function show(id) {
  for (const main of document.querySelectorAll("main")) main.hidden = main.id !== id;
  byId("who").hidden = id !== "messenger";
  if (id === "login") byId("name").focus();
}

// The connection --------------------------------------------------------------------------------

function start() {
  farewell("");
  show("messenger");
  connect();
}

function connect() {
  state("connecting ...");
  const mine = new WebSocket(`${location.origin.replace("http", "ws")}/chat`);
  socket = mine;
  mine.onopen = () => mine.send(token);
  mine.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if ("welcome" in message) welcome(message.welcome);
    if ("line" in message) addLine(message.line);
  };
  mine.onclose = (event) => {
    if (socket === mine) closed(event.code);
  };
}

function welcome(user) {
  failures = 0;
  byId("user").textContent = user;
  state("connected");
  listLines();
  listDevices();
}

// 3500-3999 and 4500-4999 forbid to come back. All others invite to, as do the codes under 3000 of a
// connection that was lost; but an expired token is no use.
function closed(code) {
  socket = null;
  if (code === EXPIRED) {
    loggedOut("Your login has expired.");
  } else if (code % 1000 >= 500) {
    loggedOut("You were logged out.");
  } else {
    // Later each time, and at random, so that not all clients of a server come back in one instant.
    const most = Math.min(30000, 1000 * 2 ** failures++);
    waiting = setTimeout(connect, most * (0.5 + 0.5 * Math.random()));
    state("connecting again ...");
  }
}

function state(text) {
  byId("state").textContent = text;
  byId("state").dataset.on = text === "connected";
}

// The devices -----------------------------------------------------------------------------------

async function listDevices() {
  const answer = await ask("GET", "/sessions");
  if (answer?.status !== 200) return;
  const devices = answer.json.sessions;
  const others = devices.filter((device) => !device.current);
  fill(byId("current"), devices.filter((device) => device.current));
  fill(byId("others"), others);
  byId("nobody").hidden = others.length > 0;
  byId("end-others").hidden = others.length === 0;
}

// Items that stay are not made anew: a click or the focus on one would be lost.
function fill(list, devices) {
  const items = new Map([...list.children].map((item) => [item.dataset.client, item]));
  for (const device of devices) {
    const item = items.get(device.client) ?? list.appendChild(newItem(device));
    items.delete(device.client);
    item.querySelector(".seen").textContent = ago(device.last_seen);
  }
  for (const item of items.values()) item.remove();
}

function newItem(device) {
  const item = byId("device").content.firstElementChild.cloneNode(true);
  item.dataset.client = device.client;
  const facts = [device.app_name, device.app_version, device.remote_addr];
  item.querySelector(".device").textContent = device.device ?? "Unknown device";
  item.querySelector(".facts").textContent = facts.filter(Boolean).join(" \u00b7 ");
  const since = new Date(device.connected_at * 1000);
  item.querySelector(".since").dateTime = since.toISOString();
  item.querySelector(".since").textContent = since.toLocaleString(undefined, {
    dateStyle: "medium",
    timeStyle: "short",
  });
  const button = item.querySelector(".end");
  button.textContent = device.current ? "Log out" : "Log out this device";
  button.onclick = () => end(`/sessions/${encodeURIComponent(device.client)}`);
  return item;
}

async function end(path) {
  notice("");
  const answer = await ask("DELETE", path);
  if (answer === null) return;
  if (answer.status === 200) {
    const count = answer.json.closed.length;
    notice(count === 1 ? "1 device is logged out." : `${count} devices are logged out.`);
  } else if (answer.status === 404) {
    notice("This device is gone already.");
  } else if (answer.status === 403) {
    notice("This login is too new to log out others. Do it from a device that logged in earlier.");
  } else {
    notice(answer.json.error.message);
  }
  listDevices();
}

function notice(text) {
  byId("notice").textContent = text;
}

function ago(seconds) {
  const age = Math.max(0, Date.now() / 1000 - seconds);
  if (age < 60) return "just now";
  const format = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
  if (age < 3600) return format.format(-Math.floor(age / 60), "minute");
  if (age < 86400) return format.format(-Math.floor(age / 3600), "hour");
  return format.format(-Math.floor(age / 86400), "day");
}

// The chat --------------------------------------------------------------------------------------

async function listLines() {
  const answer = await ask("GET", "/lines");
  if (answer?.status !== 200) return;
  byId("lines").replaceChildren();
  answer.json.forEach(addLine);
}

function addLine(line) {
  const item = document.createElement("li");
  const user = document.createElement("b");
  const at = document.createElement("time");
  user.textContent = line.user;
  at.dateTime = new Date(line.at * 1000).toISOString();
  at.textContent = new Date(line.at * 1000).toLocaleTimeString(undefined, { timeStyle: "short" });
  // Never innerHTML: names and lines are whatever people typed.
  item.append(user, " ", at, document.createElement("br"), line.text);
  byId("lines").append(item);
  item.scrollIntoView({ block: "nearest" });
}

async function say(text) {
  const answer = await ask("POST", "/lines", { text });
  return answer?.status === 201;
}

// Start -----------------------------------------------------------------------------------------

byId("login-form").onsubmit = (event) => {
  event.preventDefault();
  logIn(byId("name").value);
};

byId("line-form").onsubmit = async (event) => {
  event.preventDefault();
  const input = byId("line");
  if (await say(input.value)) input.value = "";
};

byId("end-others").onclick = () => end("/sessions");

setInterval(() => {
  if (token && document.visibilityState === "visible") listDevices();
}, LIST_AGAIN_MS);

setInterval(() => {
  if (socket?.readyState === WebSocket.OPEN) socket.send("");
}, BE_SEEN_MS);

if (token) start();
else show("login");
