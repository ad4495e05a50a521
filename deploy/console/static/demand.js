import "./forecast.js";
