-- The requests of the average day for wrk, against the null server: a second opinion on what the
-- load generator says of it. See "A second opinion" in README.md.
math.randomseed(1)
local id = "00000000-0000-7000-8000-000000000001"
local headers = { Authorization = "Bearer 0000000000000000000000000000000000000000000" }
local order = '{"document_number":"00000000001","side":"bid","symbol":"PETR4","quantity":100,'
  .. '"order_type":"limit","price":3150,"valid_until":"2030-01-31T18:00:00.000000Z"}'

local function made(method, path, body)
  return wrk.format(method, path, headers, body)
end

-- Out of 1,000 requests: 700 new orders and 245 cancels a second, and reads as 28 % of all.
local requests = {}
function init()
  local kinds = {
    { 533, made("POST", "/orders", order) },
    { 187, made("POST", "/orders/" .. id .. "/cancel") },
    { 98, made("GET", "/orders/" .. id) },
    { 83, made("GET", "/stocks/PETR4/price") },
    { 71, made("GET", "/stocks/PETR4/book") },
    { 28, made("GET", "/balance") },
  }
  for _, kind in ipairs(kinds) do
    for _ = 1, kind[1] do
      requests[#requests + 1] = kind[2]
    end
  end
end

function request()
  return requests[math.random(#requests)]
end
