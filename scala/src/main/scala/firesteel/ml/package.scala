package firesteel

package object ml {}
