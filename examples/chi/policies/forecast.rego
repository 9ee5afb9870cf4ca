# Forecasts are for keys. Which of them a key reads is in its grants, that its
# tier gave it: nothing is to be said of tiers here.
package app.forecast

allow contains "key" if input.principal.key
